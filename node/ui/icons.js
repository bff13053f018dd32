// Icons, 24 × 24, drawn with one stroke width.

import { svg } from '/dom.js';

const PATHS = {
  control: 'M5 3.5 18.5 10l-5.7 2.1L10.5 18z M14 14l5 5',
  drop: 'M5 3.5 18.5 10l-5.7 2.1L10.5 18z M14.5 15.5h6',
  elevate: 'M12 3 19 6v5.5c0 4.3-2.9 7.6-7 9.5-4.1-1.9-7-5.2-7-9.5V6z M12 15.5v-6 M9.2 12 12 9.2 14.8 12',
  monitor: 'M3.5 5h17v11h-17z M9 20h6 M12 16v4',
  laser: 'M12 12h.01 M12 4v2.5 M12 17.5V20 M4 12h2.5 M17.5 12H20 M6.5 6.5l1.6 1.6 M15.9 15.9l1.6 1.6 M17.5 6.5l-1.6 1.6 M8.1 15.9l-1.6 1.6',
  pen: 'M4 20l1-4.5L16 4.5l3.5 3.5L8.5 19z M13.5 7l3.5 3.5',
  size: 'M4 9V4h5 M20 9V4h-5 M4 15v5h5 M20 15v5h-5',
  chat: 'M4 5h16v11H11l-4.5 4v-4H4z',
  restart: 'M19.5 12a7.5 7.5 0 1 1-2.4-5.5 M19.5 3.5v4h-4',
  tasks: 'M4 19.5V4.5 M4 19.5h16 M8 15.5v-4 M12 15.5v-8 M16 15.5v-6',
  handover: 'M3.5 17V14a4 4 0 0 1 4-4h12.5 M15.5 5.5 20 10l-4.5 4.5',
  swap: 'M7 4 3.5 7.5 7 11 M3.5 7.5h14 M17 13l3.5 3.5L17 20 M20.5 16.5h-14',
  leave: 'M14 4.5H5v15h9 M10 12h10.5 M16.8 8.2 20.5 12l-3.7 3.8',
  copy: 'M8.5 8.5h11v11h-11z M15.5 8.5v-4h-11v11h4',
  refresh: 'M4.5 12a7.5 7.5 0 0 1 12.8-5.3L19.5 9 M19.5 4.5V9H15 M19.5 12a7.5 7.5 0 0 1-12.8 5.3L4.5 15 M4.5 19.5V15H9',
  pause: 'M8.5 5v14 M15.5 5v14',
  play: 'M7.5 4.5 19 12 7.5 19.5z',
  stop: 'M6 6h12v12H6z',
  check: 'M5 12.5 10 17.5 19.5 7',
  cross: 'M6 6l12 12 M18 6 6 18',
  warn: 'M12 4 21 19.5H3z M12 10v4.5 M12 17h.01',
  shield: 'M12 3 19 6v5.5c0 4.3-2.9 7.6-7 9.5-4.1-1.9-7-5.2-7-9.5V6z M8.5 12l2.5 2.5 4.5-5',
  eye: 'M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12z M12 14.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5z',
  send: 'M4 12 20 4.5 15.5 20l-4-6.5z M11.5 13.5 20 4.5',
  help: 'M5 20v-1.5c0-3 3-4.5 7-4.5s7 1.5 7 4.5V20 M12 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7z',
  down: 'M6 9.5l6 6 6-6',
};

/** An icon; what it means stands beside it in words, so it is hidden from screen readers. */
export function icon(name) {
  return svg('svg', { class: `icon icon-${name}`, viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { d: PATHS[name] }));
}

/** The mark: two arcs that hold on to each other. */
export function mark() {
  return svg('svg', { class: 'mark', viewBox: '0 0 32 32', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { class: 'mark-a', d: 'M3 17c4.5-8 14-11 22-6.5-3.2 8.4-12.6 12-22 6.5z' }),
    svg('path', { class: 'mark-b', d: 'M11 22.5c4.6-5.4 11.6-6.6 18-3-3.4 6.2-11.4 8-18 3z' }));
}
