// @ts-check
// The shapes that modules share, for JSDoc: `@type {import('./types.js').Run}`. It holds no code.

/**
 * @typedef {object} Checkpoint  A kept checkpoint, which the service opens as `RUN@STEP`.
 * @property {number} step
 * @property {boolean} best
 */

/**
 * @typedef {object} Run  An entry of GET /api/runs.
 * @property {string} name
 * @property {boolean} model  Whether there is a checkpoint to use.
 * @property {boolean} chat  Whether its model answers messages.
 * @property {string} description
 * @property {number | null} parameters
 * @property {number} steps_done
 * @property {number | null} steps_planned
 * @property {'running' | 'stopped' | 'finished' | 'damaged'} state
 * @property {number} updated  Seconds since 1970.
 * @property {number | null} loss  In nats per token: the mean of the last 50 steps.
 * @property {number | null} val_loss
 * @property {number | null} bits_per_byte
 * @property {number | null} seconds  Of training.
 * @property {number | null} tokens  Trained on.
 * @property {string | null} problem  Of a damaged run.
 * @property {Checkpoint[]} checkpoints
 */

/**
 * @typedef {object} Runs  The answer of GET /api/runs.
 * @property {Run[]} runs
 * @property {boolean} may_train
 */

/**
 * @typedef {object} Context  Told to a view when it is shown.
 * @property {string} run  The name of the run; "" where there is none.
 * @property {string[]} names  All runs of the address, of which `run` is the first.
 * @property {number | null} at  The checkpoint's step, or null for the run's own choice.
 * @property {string} model  The model's name for the service: `run`, or `run@step`.
 * @property {Run[]} runs
 * @property {boolean} mayTrain  Whether trainings may be started from the page.
 * @property {(hash: string) => void} go  Go to an address such as `#/watch/names`.
 * @property {(text: string) => void} say  Tell a screen reader, politely.
 * @property {AbortSignal} signal  Aborted when another view is opened: of what a view awaits before it is shown.
 */

/**
 * @typedef {(() => void) & {follow?: (context: Context) => void}} End  Ends a view. With `follow`, the view shows another
 *   checkpoint of the same run in place, so that nothing that was typed is lost: `Object.assign(end, {follow})`.
 */

/**
 * @typedef {object} View  A view's module.
 * @property {(main: HTMLElement, context: Context) => Promise<End>} show  Fill `main`; the result ends the view.
 */

export {};
