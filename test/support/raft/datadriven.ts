/**
 * Reads scripts in the format of cockroachdb/datadriven: directives with arguments, optional input, and expected output.
 *
 *   cmd arg key=val key=(a,b)      a directive; "\" at the end continues the line
 *   input lines
 *   ----
 *   expected output, up to a blank line; or, after a doubled "----", up to another doubled one
 *
 * Lines that begin with "#" between cases are comments. Parsing only: what a directive does is the caller's.
 */

/** One argument: `key`, `key=val` or `key=(a,b,c)`. */
export interface DirectiveArg {
  readonly key: string;
  /** Empty for a bare key. */
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
  const lines = text.split("\n");
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
    const { expected, next } = readExpected(lines, at + 1);
    cases.push({ line: start, ...parseDirective(directive), input: input.join("\n").trim(), expected });
    at = next;
  }
  return cases;
}

/** Splits one directive line into its command and arguments. */
export function parseDirective(line: string): { command: string; args: DirectiveArg[] } {
  const words: string[] = [];
  for (const match of line.matchAll(/[^\s()]*\((?:[^()]|\([^()]*\))*\)|\S+/g)) words.push(match[0]);
  const args = words.slice(1).map((word): DirectiveArg => {
    const equals = word.indexOf("=");
    if (equals < 0) return { key: word, values: [] };
    const value = word.slice(equals + 1);
    const inner = value.startsWith("(") ? value.slice(1, -1).split(/[,\s]+/) : [value];
    return { key: word.slice(0, equals), values: inner.filter((part) => part !== "") };
  });
  return { command: words[0] ?? "", args };
}

function readExpected(lines: readonly string[], from: number): { expected: string; next: number } {
  const isDoubled = lines[from] === "----";
  const expected: string[] = [];
  let at = isDoubled ? from + 1 : from;
  for (; at < lines.length; at += 1) {
    const line = lines[at] ?? "";
    if (isDoubled ? line === "----" && lines[at + 1] === "----" : line === "") break;
    expected.push(line);
  }
  return { expected: expected.join("\n"), next: isDoubled ? at + 2 : at + 1 };
}
