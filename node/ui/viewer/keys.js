// From the browser's keys (UI Events KeyboardEvent key and code values) to X keysyms (keysymdef.h).

const NAMED = {
  Backspace: 0xff08, Tab: 0xff09, Enter: 0xff0d, Pause: 0xff13, ScrollLock: 0xff14, Escape: 0xff1b,
  Home: 0xff50, ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54, PageUp: 0xff55, PageDown: 0xff56,
  End: 0xff57, Select: 0xff60, PrintScreen: 0xff61, Execute: 0xff62, Insert: 0xff63, Undo: 0xff65, Redo: 0xff66,
  ContextMenu: 0xff67, Find: 0xff68, Cancel: 0xff69, Help: 0xff6a, Delete: 0xffff,
  Shift: 0xffe1, Control: 0xffe3, Alt: 0xffe9, Meta: 0xffeb, OS: 0xffeb, Super: 0xffeb, Hyper: 0xffed, AltGraph: 0xfe03,
  KanaMode: 0xff2d, KanjiMode: 0xff21, Convert: 0xff23, NonConvert: 0xff22, HangulMode: 0xff31, HanjaMode: 0xff34,
  Hiragana: 0xff25, Katakana: 0xff26, HiraganaKatakana: 0xff27, Romaji: 0xff24, Zenkaku: 0xff28, Hankaku: 0xff29,
  ZenkakuHankaku: 0xff2a, Eisu: 0xff2f, Alphanumeric: 0xff30,
  AudioVolumeDown: 0x1008ff11, AudioVolumeMute: 0x1008ff12, AudioVolumeUp: 0x1008ff13, MediaPlayPause: 0x1008ff14,
  MediaStop: 0x1008ff15, MediaTrackPrevious: 0x1008ff16, MediaTrackNext: 0x1008ff17, BrowserHome: 0x1008ff18,
  LaunchMail: 0x1008ff19, BrowserSearch: 0x1008ff1b, BrowserBack: 0x1008ff26, BrowserForward: 0x1008ff27,
  BrowserStop: 0x1008ff28, BrowserRefresh: 0x1008ff29, BrowserFavorites: 0x1008ff30, LaunchApplication2: 0x1008ff1d,
  BrightnessUp: 0x1008ff02, BrightnessDown: 0x1008ff03, Copy: 0x1008ff57, Cut: 0x1008ff58, Paste: 0x1008ff6d,
};
for (let number = 1; number <= 24; number += 1) NAMED[`F${number}`] = 0xffbd + number;

/** Where a key has a twin on the right. */
const RIGHT = { Shift: 0xffe2, Control: 0xffe4, Alt: 0xffea, Meta: 0xffec, OS: 0xffec };

const KEYPAD = {
  NumpadEnter: 0xff8d, NumpadMultiply: 0xffaa, NumpadAdd: 0xffab, NumpadComma: 0xffac, NumpadSubtract: 0xffad,
  NumpadDivide: 0xffaf, NumpadEqual: 0xffbd,
};
const KEYPAD_NAMED = {
  Home: 0xff95, ArrowLeft: 0xff96, ArrowUp: 0xff97, ArrowRight: 0xff98, ArrowDown: 0xff99, PageUp: 0xff9a, PageDown: 0xff9b,
  End: 0xff9c, Clear: 0xff9d, Insert: 0xff9e, Delete: 0xff9f,
};

/** Locks stay the sharer's: characters come as they are meant, whatever the locks here. */
const LOCKS = new Set(['CapsLock', 'NumLock']);

/** The keysym of a character (X11 protocol, appendix A): Latin-1 as it is, the rest above 0x1000000. */
export function keysymOfCharacter(character) {
  const point = character.codePointAt(0);
  const latin = (point >= 0x20 && point <= 0x7e) || (point >= 0xa0 && point <= 0xff);
  return latin ? point : 0x1000000 + point;
}

/** The keysym for a key event; 0 for what has to come as text, null for what is not sent at all. */
export function keysym({ key, code, location }) {
  if (LOCKS.has(key)) return null;
  if (key === 'Dead' || key === 'Process' || key === 'Unidentified' || key === undefined) return 0;
  if (KEYPAD[code] !== undefined) return KEYPAD[code];
  if (location === 3) {
    if (KEYPAD_NAMED[key] !== undefined) return KEYPAD_NAMED[key];
    if (key >= '0' && key <= '9' && key.length === 1) return 0xffb0 + Number(key);
    if (code === 'NumpadDecimal') return key === ',' ? 0xffac : 0xffae;
  }
  // X11 calls Alt Meta while Shift is down.
  if (key === 'Meta' && code.startsWith('Alt')) return code === 'AltRight' ? RIGHT.Alt : NAMED.Alt;
  if (location === 2 && RIGHT[key] !== undefined) return RIGHT[key];
  if (NAMED[key] !== undefined) return NAMED[key];
  const [first, second] = key;
  return first !== undefined && second === undefined ? keysymOfCharacter(first) : 0;
}
