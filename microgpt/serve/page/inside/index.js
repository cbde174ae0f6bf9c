// @ts-check
// Look inside: its panels, one per subject.

import { attentionPanel } from './attention.js';
import { embeddingsPanel } from './embeddings.js';
import { historyPanel } from './history.js';
import { intervenePanel } from './intervene.js';
import { lensPanel } from './lens.js';
import { neuronsPanel } from './neurons.js';
import { residualPanel } from './residual.js';
import { insideOf } from './view.js';
import { weightsPanel } from './weights.js';

/** @type {import('./view.js').Panels} */
const PANELS = {
  attention: { title: 'Attention', make: attentionPanel },
  residual: { title: 'Residual stream', make: residualPanel },
  lens: { title: 'Logit lens', make: lensPanel },
  neurons: { title: 'Neurons', make: neuronsPanel, textless: true },
  embeddings: { title: 'Embeddings', make: embeddingsPanel, textless: true },
  weights: { title: 'Weights', make: weightsPanel, textless: true },
  intervene: { title: 'Intervene', make: intervenePanel },
  history: { title: 'Over time', make: historyPanel },
};

export const show = insideOf(PANELS);
