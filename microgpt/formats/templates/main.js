// @ts-check
// The page of one exported model: the views of `microgpt serve` that need nothing but the model, which is in the page.

import { answerWith } from '../../serve/page/api.js';
import { byId } from '../../serve/page/dom.js';
import { attentionPanel } from '../../serve/page/inside/attention.js';
import { insideOf } from '../../serve/page/inside/view.js';
import { show as play } from '../../serve/page/play/index.js';
import { start } from '../../serve/page/router.js';
import { Model, bytesOf, unpack } from './model.js';
import { Service } from './service.js';

const about = JSON.parse(byId('about').textContent ?? '');
const bytes = bytesOf(byId('weights').textContent ?? '');
const members = about.members.map((/** @type {import('./ensemble.js').Member} */ { model, matrices, at }) => new Model(model, unpack(bytes, matrices, about.storage, at)));
const fast = /** @type {HTMLInputElement} */ (byId('fast'));

export const service = new Service(about, members, () => fast.checked);
answerWith((path, options) => service.answer(path, options));
start({
  play: { title: 'Play', load: async () => ({ show: play }) },
  inside: { title: 'Look inside', load: async () => ({ show: insideOf({ attention: { title: 'Attention', make: attentionPanel } }) }) },
});
