/**
 * Conditional requests (RFC 9110 section 13): what If-Match and its kin ask for.
 *
 * The ETag of an entry is its version in quotes. It is strong: equal tags mean equal bytes and attributes. The modification
 * time is the client's own, so it is a weak validator and never decides about ranges. Pure; knows no request objects.
 */
import { DriveError } from "../drive/errors.ts";
import type { Entry, Precondition } from "../drive/entry.ts";
import { argumentsInvalid } from "./http-error.ts";

/** Header fields by lower-case name, as Node gives them. */
export type Headers = Readonly<Record<string, string | readonly string[] | undefined>>;

/** The value of a header field that may come once; repeated ones are joined as RFC 9110 section 5.3 says. */
export function header(headers: Headers, name: string): string | undefined {
  const value = headers[name];
  return typeof value === "string" || value === undefined ? value : value.join(", ");
}

/** The strong entity tag of an entry. */
export function etagOf(entry: Entry): string {
  return `"${entry.version}"`;
}

/** A member of an If-Match or If-None-Match list. */
export interface EntityTag {
  readonly weak: boolean;
  readonly tag: string;
}

const ETAG = /\s*(W\/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(,|$)/y;

/** The members of an entity-tag list, "*" for the wildcard, or undefined when the text is neither. */
export function parseEtags(text: string): "*" | readonly EntityTag[] | undefined {
  if (text.trim() === "*") return "*";
  const tags: EntityTag[] = [];
  ETAG.lastIndex = 0;
  while (ETAG.lastIndex < text.length) {
    const match = ETAG.exec(text);
    if (match === null) return undefined;
    tags.push({ weak: match[1] !== undefined, tag: match[2] ?? "" });
  }
  return tags.length === 0 ? undefined : tags;
}

/** A version that no entry has: what a weak or foreign tag stands for, so that it never matches. */
export const VERSION_NONE = 0;

function versionOf(tag: EntityTag): number {
  const version = Number(tag.tag);
  return !tag.weak && /^[1-9]\d{0,15}$/.test(tag.tag) && Number.isSafeInteger(version)
    ? version
    : VERSION_NONE;
}

/**
 * What the headers of a change demand of the entry that it changes or replaces.
 * @throws DriveError ARGUMENT_INVALID for a malformed list and for conditions that a change cannot have here: ignoring
 * a guard that the client relies on would lose data
 */
export function parsePrecondition(headers: Headers): Precondition | undefined {
  const problems: string[] = [];
  let precondition: Precondition = {};
  const match = header(headers, "if-match");
  if (match !== undefined) {
    const tags = parseEtags(match);
    if (tags === undefined) problems.push("header If-Match: not a list of entity tags");
    else if (tags === "*") precondition = { ...precondition, ifExists: true };
    else precondition = { ...precondition, ifVersions: tags.map(versionOf) };
  }
  const noneMatch = header(headers, "if-none-match");
  if (noneMatch !== undefined) {
    if (noneMatch.trim() === "*") precondition = { ...precondition, ifAbsent: true };
    else problems.push('header If-None-Match: a change takes only "*"');
  }
  if (headers["if-unmodified-since"] !== undefined) {
    problems.push("header If-Unmodified-Since: not taken for a change, use If-Match");
  }
  if (problems.length > 0) throw argumentsInvalid(problems);
  return Object.keys(precondition).length === 0 ? undefined : precondition;
}

/** The error of a change, where a tag of its If-Match stands for VERSION_NONE: that number means nothing to its client. */
export function explainUnmatched<E extends Error>(error: E, headers: Headers): E | DriveError {
  const match = header(headers, "if-match");
  const tags = match === undefined ? undefined : parseEtags(match);
  const isExplained =
    error instanceof DriveError && error.reason === "VERSION_MISMATCH" && Array.isArray(tags);
  if (!isExplained || !tags.some((tag) => versionOf(tag) === VERSION_NONE)) return error;
  const { metadata } = error;
  const version = metadata["version"];
  const now = version === undefined || version === "none" ? "" : `; the tag is now "${version}"`;
  return new DriveError(
    "VERSION_MISMATCH",
    `No tag in If-Match is the strong tag of what is there${now}.`,
    metadata,
    error,
  );
}

/** What a conditional read gets. */
export type ReadVerdict = "serve" | "not-modified" | "precondition-failed";

/** What a version is known by. */
export interface Validators {
  /** Strong, with its quotes. */
  readonly etag: string;
  /** Undefined where none means anything. */
  readonly modifyTimeMs: number | undefined;
}

/** Evaluates the conditions of a GET or HEAD of `entry` in the order of RFC 9110 section 13.2.2. */
export function judgeRead(headers: Headers, entry: Entry): ReadVerdict {
  return judge(headers, { etag: etagOf(entry), modifyTimeMs: entry.modifyTimeMs });
}

/** As judgeRead(), for whatever has these validators. */
export function judge(headers: Headers, { etag, modifyTimeMs }: Validators): ReadVerdict {
  const strong = etag.slice(1, -1);
  const isNewerThan = (timeMs: number): boolean =>
    modifyTimeMs !== undefined && wholeSeconds(modifyTimeMs) > timeMs;
  const match = header(headers, "if-match");
  const unmodifiedSince = header(headers, "if-unmodified-since");
  if (match !== undefined) {
    const tags = parseEtags(match);
    if (tags !== "*" && tags?.some((tag) => !tag.weak && tag.tag === strong) !== true)
      return "precondition-failed";
  } else if (unmodifiedSince !== undefined) {
    const timeMs = parseHttpDate(unmodifiedSince);
    if (timeMs !== undefined && isNewerThan(timeMs)) return "precondition-failed";
  }
  const noneMatch = header(headers, "if-none-match");
  const modifiedSince = header(headers, "if-modified-since");
  if (noneMatch !== undefined) {
    const tags = parseEtags(noneMatch);
    if (tags === "*" || tags?.some((tag) => tag.tag === strong) === true) return "not-modified";
  } else if (modifiedSince !== undefined) {
    const timeMs = parseHttpDate(modifiedSince);
    if (timeMs !== undefined && modifyTimeMs !== undefined && !isNewerThan(timeMs)) return "not-modified";
  }
  return "serve";
}

/**
 * Whether If-Range lets a Range count: without the header yes, with one only if it is the strong tag of `entry`. A date never
 * does: modification times are given by clients, so two versions may share one (RFC 9110 section 8.8.2.2).
 */
export function rangeApplies(headers: Headers, entry: Entry): boolean {
  return rangeAppliesTo(headers, etagOf(entry));
}

/** As rangeApplies(), for whatever has this strong tag. */
export function rangeAppliesTo(headers: Headers, etag: string): boolean {
  const ifRange = header(headers, "if-range");
  return ifRange === undefined || ifRange.trim() === etag;
}

/** A modification time as Last-Modified carries it. */
function wholeSeconds(timeMs: number): number {
  return Math.floor(timeMs / 1000) * 1000;
}

/** Times that Last-Modified can carry: years 0 to 9999. */
const HTTP_DATE_MS_MIN = -62_167_219_200_000;
const HTTP_DATE_MS_MAX = 253_402_300_799_999;

/** The modification time as an HTTP date, or undefined when the year has no four digits. */
export function lastModified(entry: Entry): string | undefined {
  const timeMs = entry.modifyTimeMs;
  if (!(timeMs >= HTTP_DATE_MS_MIN && timeMs <= HTTP_DATE_MS_MAX)) return undefined;
  return new Date(timeMs).toUTCString();
}

const DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)";
const MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)";
const IMF_DATE = new RegExp(`^${DAY}, \\d{2} ${MONTH} \\d{4} \\d{2}:\\d{2}:\\d{2} GMT$`);
const RFC_850_DATE =
  /^(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (\d{2})-([A-Z][a-z]{2})-(\d{2}) (\d{2}:\d{2}:\d{2}) GMT$/;
const ASCTIME_DATE = new RegExp(`^${DAY} (${MONTH}) ([ \\d]\\d) (\\d{2}:\\d{2}:\\d{2}) (\\d{4})$`);

/** Milliseconds since 1970 of an HTTP date in any of its three forms (RFC 9110 section 5.6.7), or undefined. */
export function parseHttpDate(text: string): number | undefined {
  let canonical = text;
  const rfc850 = RFC_850_DATE.exec(text);
  const asctime = ASCTIME_DATE.exec(text);
  if (rfc850 !== null) {
    // Two digits of year: the obsolete form cannot mean a time far in the future, so 70 to 99 are the last century.
    const century = Number(rfc850[3]) >= 70 ? "19" : "20";
    canonical = `${rfc850[1]} ${rfc850[2]} ${century}${rfc850[3]} ${rfc850[4]} GMT`;
  } else if (asctime !== null) {
    canonical = `${asctime[2]?.trim()} ${asctime[1]} ${asctime[4]} ${asctime[3]} GMT`;
  } else if (!IMF_DATE.test(text)) {
    return undefined;
  }
  const timeMs = Date.parse(canonical);
  return Number.isNaN(timeMs) ? undefined : timeMs;
}
