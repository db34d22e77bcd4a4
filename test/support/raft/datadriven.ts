/**
 * Reads scripts in the format of cockroachdb/datadriven: directives with arguments, optional input, and expected output.
 *
 *   cmd arg key=val key=(a,b)      a directive; "\" at the end continues the line
 *   input lines
 *   ----
 *   expected output, up to a blank line; or, after a doubled "----", up to another doubled one
 *
 * Lines that begin with "#" between cases are comments. A line of blanks counts as blank. Parsing only: what a directive does
 * is the caller's.
 */

/** One argument: `key`, `key=val` or `key=(a,b,c)`. */
export interface DirectiveArg {
  readonly key: string;
  /** Empty for a bare key; one empty value for "key=". */
  readonly values: readonly string[];
}

/** One directive with what follows it. */
export interface DirectiveCase {
  /** Line of the directive, from 1. */
  readonly line: number;
  readonly command: string;
  readonly args: readonly DirectiveArg[];
  readonly input: string;
  readonly expected: string;
}

/** The cases of a script, in order. Throws an Error with the line number for text that is not of the format. */
export function parseScript(text: string): DirectiveCase[] {
  const lines = text.split(/\r?\n/);
  const cases: DirectiveCase[] = [];
  let at = 0;
  while (at < lines.length) {
    const line = (lines[at] ?? "").trim();
    if (line === "" || line.startsWith("#")) {
      at += 1;
      continue;
    }
    const start = at + 1;
    let directive = line;
    at += 1;
    while (directive.endsWith("\\")) {
      directive = directive.slice(0, -1) + " " + (lines[at] ?? "").trim();
      at += 1;
    }
    const input: string[] = [];
    while (at < lines.length && lines[at] !== "----") {
      input.push(lines[at] ?? "");
      at += 1;
    }
    if (at >= lines.length) throw new Error(`line ${start}: no "----" after ${directive}`);
    const output = readExpected(lines, at + 1);
    if (output === undefined)
      throw new Error(`line ${start}: the doubled "----" after ${directive} is not closed`);
    const parsed = { ...parseDirective(directive), input: input.join("\n").trim() };
    cases.push({ line: start, ...parsed, expected: output.expected });
    at = output.next;
  }
  return cases;
}

/** Splits one directive line into its command and arguments. */
export function parseDirective(line: string): { command: string; args: DirectiveArg[] } {
  const [command = "", ...words] = wordsOf(line);
  const args = words.map((word): DirectiveArg => {
    const equals = word.indexOf("=");
    if (equals < 0) return { key: word, values: [] };
    const value = word.slice(equals + 1);
    const values = value.startsWith("(") ? value.slice(1, -1).split(",") : [value];
    return { key: word.slice(0, equals), values: values.map((part) => part.trim()) };
  });
  return { command, args };
}

/** The number, from 0, that `text` is; throws for anything else. */
export function readNumber(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new Error(`not a number: "${text}"`);
  return value;
}

/** The truth value that `text` is, in any of the spellings of datadriven; throws for anything else. */
export function readBoolean(text: string): boolean {
  if (/^(?:1|t|T|true|TRUE|True)$/.test(text)) return true;
  if (/^(?:0|f|F|false|FALSE|False)$/.test(text)) return false;
  throw new Error(`neither true nor false: "${text}"`);
}

/** Splits at blanks outside of "key=(…)"; throws for parentheses that are not closed. */
function wordsOf(line: string): string[] {
  const words: string[] = [];
  let word = "";
  let depth = 0;
  for (const char of `${line} `) {
    const isOpening = char === "(" && (depth > 0 || /^[^=]+=$/.test(word));
    const isClosing = char === ")" && depth > 0;
    const isBlank = char.trim() === "" && depth === 0;
    if (isOpening) depth += 1;
    if (isClosing) depth -= 1;
    if (!isBlank) word += char;
    if (!isBlank && !(isClosing && depth === 0)) continue;
    if (word !== "") words.push(word);
    word = "";
  }
  if (depth > 0) throw new Error(`a parenthesis is not closed: ${line}`);
  return words;
}

/** What follows a "----"; undefined when it is doubled and not closed. */
function readExpected(
  lines: readonly string[],
  from: number,
): { expected: string; next: number } | undefined {
  const isDoubled = lines[from] === "----";
  const expected: string[] = [];
  let at = isDoubled ? from + 1 : from;
  for (; at < lines.length; at += 1) {
    const line = lines[at] ?? "";
    if (isDoubled ? line === "----" && lines[at + 1] === "----" : line.trim() === "") break;
    expected.push(line);
  }
  if (isDoubled && at >= lines.length) return undefined;
  return { expected: expected.join("\n"), next: isDoubled ? at + 2 : at + 1 };
}
