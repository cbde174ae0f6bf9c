// @ts-check
// The views of the page; each is loaded when it is first shown.

import { start } from './router.js';

start({
  play: { title: 'Play', load: () => import('./play/index.js') },
  watch: { title: 'Watch', load: () => import('./watch/index.js') },
  inside: { title: 'Look inside', load: () => import('./inside/index.js') },
  step: { title: 'Step through', load: () => import('./step/index.js') },
});
