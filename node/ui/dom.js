// The little that is needed to build a page.

const SVG = 'http://www.w3.org/2000/svg';

function apply(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'text') element.textContent = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
}

/** An element: `h('button.main', { onclick }, 'text', child, …)`. */
export function h(what, ...rest) {
  const [tag, ...classes] = what.split('.');
  const element = document.createElement(tag || 'div');
  if (classes.length > 0) element.className = classes.join(' ');
  const [first] = rest;
  const plain = first && typeof first === 'object' && !(first instanceof Node) && !Array.isArray(first);
  if (plain) apply(element, rest.shift());
  element.append(...rest.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  apply(element, properties);
  element.append(...children);
  return element;
}

/** Sets text only where it differs: a screen reader would read it again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

export function set(element, name, value) {
  const text = value === null || value === undefined || value === false ? null : value === true ? '' : String(value);
  if (element.getAttribute(name) === text) return;
  if (text === null) element.removeAttribute(name);
  else element.setAttribute(name, text);
}

let ids = 0;

/** A fresh id, for labels and descriptions. */
export function id(name) {
  ids += 1;
  return `${name}-${ids}`;
}
