// @ts-check
// The stream of what is new about runs, opened again by itself whenever it breaks.

import { ApiError, aborted, stream } from '../api.js';

const LONGEST = 5000; // milliseconds between two tries

/**
 * @param {string[]} runs
 * @param {number} points
 * @param {{event: (event: any) => void, broken: (message: string) => void, open: () => void}} listener
 *   `open` is called with the first event of each connection, `broken` when one ends or cannot be made.
 * @returns {() => void}  Ends it.
 */
export function follow(runs, points, listener) {
  const aborter = new AbortController();
  run().catch((error) => {
    if (!aborted(error)) throw error;
  });

  async function run() {
    for (let wait = 500; !aborter.signal.aborted; wait = Math.min(LONGEST, wait * 1.6)) {
      let message = 'The service has ended the connection.';
      try {
        let fresh = true;
        for await (const event of stream('/api/metrics/live', { runs, points }, aborter.signal)) {
          if (fresh) listener.open();
          fresh = false;
          wait = 500;
          listener.event(event);
        }
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        message = error.message;
      }
      if (aborter.signal.aborted) return;
      listener.broken(message);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  return () => aborter.abort();
}
