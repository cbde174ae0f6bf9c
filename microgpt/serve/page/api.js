// @ts-check
// Requests to the service that this page came from, or to one within the page.

/** @typedef {(path: string, options: RequestInit) => Promise<Response>} Answer */

/** @type {Answer} */
let answer = (path, options) => fetch(path, options);

/**
 * Ask something else than the service that this page came from.
 * @param {Answer} other
 */
export function answerWith(other) {
  answer = other;
}

/** A request that was refused, or that did not reach the service; its message is for people. */
export class ApiError extends Error {
  /**
   * @param {number} status  Of HTTP; 0 where the service was not reached.
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function get(path, signal) {
  return read(await send(path, undefined, signal), 'json');
}

/**
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} [signal]
 * @param {'json' | 'arrayBuffer'} [as]  How the answer is read.
 * @returns {Promise<any>}
 */
export async function post(path, body, signal, as = 'json') {
  return read(await send(path, body, signal), as);
}

/**
 * @param {Response} response
 * @param {'json' | 'arrayBuffer'} as
 */
async function read(response, as) {
  try {
    return await response[as]();
  } catch (error) {
    throw aborted(error) ? error : unreachable(); // the connection ended within the body
  }
}

/**
 * The server-sent events of a request, parsed; the stream ends with `[DONE]` or with the connection. Breaking out of the
 * loop closes the connection. An event `{"error": …}` is thrown.
 * @param {string} path
 * @param {object} [body]  With it the request is a POST.
 * @param {AbortSignal} [signal]
 * @returns {AsyncGenerator<any, void, void>}
 */
export async function* stream(path, body, signal) {
  const response = await send(path, body, signal);
  if (!response.body) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder(); // a TextDecoderStream would pass each piece on through two more queues
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + decoder.decode(value, { stream: true })).split('\n\n');
      rest = events.pop() ?? '';
      for (const event of events) {
        const lines = event.split('\n').filter((line) => line.startsWith('data:'));
        const data = lines.map((line) => line.slice(5).trimStart()).join('\n');
        if (data === '[DONE]') return;
        if (!data) continue; // a comment that keeps the connection alive
        const parsed = JSON.parse(data);
        if (parsed.error) throw new ApiError(response.status, reasonOf(parsed));
        yield parsed;
      }
    }
  } catch (error) {
    throw error instanceof ApiError || aborted(error) ? error : unreachable();
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * @param {string} path
 * @param {object | undefined} body
 * @param {AbortSignal | undefined} signal
 */
async function send(path, body, signal) {
  /** @type {RequestInit} */
  const options = { signal };
  if (body !== undefined) {
    options.method = 'POST';
    options.headers = { 'content-type': 'application/json' };
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await answer(path, options);
  } catch (error) {
    throw aborted(error) ? error : unreachable();
  }
  if (!response.ok) throw new ApiError(response.status, reasonOf(await response.json().catch(() => ({}))));
  return response;
}

/** @param {any} refusal */
function reasonOf(refusal) {
  const error = refusal.error;
  return (typeof error === 'string' ? error : error?.message) ?? 'the service refused this without a reason';
}

function unreachable() {
  return new ApiError(0, 'The service does not answer. Is microgpt serve still running?');
}

/**
 * Do a task; the message of an ApiError is shown in `problem`, which is empty after a task that succeeded.
 * @param {HTMLElement} problem
 * @param {() => Promise<void>} task
 * @returns {Promise<boolean>}  Whether it succeeded.
 */
export async function guarded(problem, task) {
  try {
    await task();
    problem.textContent = '';
    return true;
  } catch (error) {
    if (aborted(error)) return false;
    if (!(error instanceof ApiError)) throw error;
    problem.textContent = error.message;
    return false;
  }
}

/**
 * Whether an error is only that a request was given up.
 * @param {unknown} error
 */
export function aborted(error) {
  return error instanceof DOMException && error.name === 'AbortError';
}
