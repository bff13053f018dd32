// Files through the page: what is chosen or dropped goes to the node, which offers it; what has come can be saved from here.

import { passKey } from '/link.js';

const post = (path, more = {}, body = null) => fetch(path, { method: 'POST', headers: { 'x-remora-key': passKey(), ...more }, body }).catch(() => null);

/** Whether files may go to the other side now. */
export function mayGive({ stage, role, granted, paused }) {
  return stage === 'active' && !paused && granted.includes(`files_to_${role === 'helper' ? 'sharer' : 'helper'}`);
}

/** Gives the node a file to offer. Returns why not, or null. */
export async function give(file) {
  // Half of a character is no name.
  const name = encodeURIComponent(file.name.toWellFormed?.() ?? file.name);
  const answer = await post('/files', { 'x-remora-name': name }, file);
  if (answer?.ok) return null;
  const { error } = (await answer?.json().catch(() => null)) ?? {};
  return error ?? 'FILE_FAILED';
}

/** Saves a copy of a file that has come where the browser saves files. Returns whether it could. */
export async function save(number, name) {
  const answer = await post(`/files/${number}`);
  const content = answer?.ok ? await answer.blob().catch(() => null) : null;
  if (!content) return false;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  // The browser has begun to read it by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return true;
}
