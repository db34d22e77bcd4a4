/**
 * How names are compared and looked up in every catalog: one folding, one set of grams. Pure.
 *
 * Folding makes "Report" and "REPORT", and "Straße" and "STRASSE", the same. Grams are the characters of a folded name and the
 * pairs of neighbours: a name that contains a text contains all grams of the text. Pairs of two characters are what a Chinese
 * query usually is; trigrams would answer it only by reading every name.
 */

/** A folded name: normal form C, each character through upper case to lower case. Idempotent. */
export function foldName(name: string): string {
  if (isAscii(name)) return name.toLowerCase();
  let folded = "";
  // One character at a time: lower case of a whole word would give the Greek sigma two forms.
  for (const character of name.normalize("NFC")) folded += character.toUpperCase().toLowerCase();
  return folded.normalize("NFC");
}

function isAscii(text: string): boolean {
  for (let i = 0; i < text.length; i += 1) if (text.charCodeAt(i) > 0x7f) return false;
  return true;
}

/** The grams of a folded text: its characters and its pairs of neighbours, each once. */
export function gramsOf(folded: string): readonly string[] {
  const grams = new Set<string>();
  let before = "";
  for (const character of folded) {
    grams.add(character);
    if (before !== "") grams.add(before + character);
    before = character;
  }
  return [...grams];
}

/**
 * The grams that a name must have to contain the folded text, and no more of them than tell something: the pairs, or the
 * character when there is only one.
 */
export function gramsToFind(folded: string): readonly string[] {
  const characters = Array.from(folded);
  if (characters.length < 2) return characters;
  return [...new Set(characters.slice(1).map((character, i) => `${characters[i] ?? ""}${character}`))];
}

/** Bits of a signature, a power of two. The names of a block have some 1,700 different grams: a fifth of the bits. */
const SIGNATURE_BIT_COUNT = 8192;

/** Bytes of a signature. */
export const SIGNATURE_SIZE_BYTES = SIGNATURE_BIT_COUNT / 8;

/** The bit of a gram in a signature: a set of grams in which "absent" is certain and "present" is not. FNV-1a, folded. */
export function signatureBit(gram: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < gram.length; i += 1) {
    const unit = gram.charCodeAt(i);
    hash = Math.imul(hash ^ (unit & 0xff), 0x01000193);
    hash = Math.imul(hash ^ (unit >>> 8), 0x01000193);
  }
  return ((hash >>> 16) ^ hash) & (SIGNATURE_BIT_COUNT - 1);
}
