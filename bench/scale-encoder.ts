/** Encodes put-small commands in a process of its own, a folder at a time, so that the one that applies them does nothing else. */
import { encodeCommand } from "../src/metadata/codec.ts";
import { must } from "../src/std/assert.ts";
import { sha256 } from "../src/std/digest.ts";
import { utf8 } from "../src/std/bytes.ts";

/** The first message; each later one, "next", asks for a folder. */
export interface EncoderSettings {
  readonly entryCount: number;
  readonly filesPerFolder: number;
  /** Content id of the first file; the others follow. */
  readonly firstContentId: number;
  readonly memberIds: readonly number[];
}

const WORDS = "invoice report budget summer photo holiday meeting draft final project contract minutes".split(
  " ",
);
const SUFFIXES = ["pdf", "txt", "jpg", "docx", "png", "csv"];

/** Path of a folder: a hundred top folders with as many below each of them. */
export function folderPath(folder: number): readonly string[] {
  const two = (value: number): string => String(value).padStart(2, "0");
  return [`department ${two(folder % 100)}`, `project ${two(Math.floor(folder / 100))}`];
}

/** Name of a file, as people give them. */
export function fileName(index: number): string {
  const word = (at: number): string => must(WORDS[at % WORDS.length], "a word");
  const suffix = must(SUFFIXES[index % SUFFIXES.length], "a suffix");
  return `${word(index * 7)} ${word(index * 5 + 3)} ${String(index).padStart(8, "0")}.${suffix}`;
}

function command(index: number, { filesPerFolder, firstContentId, memberIds }: EncoderSettings): Uint8Array {
  const bytes = utf8(`content of file ${index}`);
  const treeHash = sha256(bytes);
  const contentId = firstContentId + index;
  return encodeCommand({
    requestId: "",
    deadlineMs: 0,
    wallTimeMs: 1_750_000_000_000 + index,
    body: {
      kind: "put-small",
      at: { baseId: 1, path: [...folderPath(Math.floor(index / filesPerFolder)), fileName(index)] },
      createParents: true,
      onConflict: "fail",
      attributes: {},
      precondition: {},
      memberId: must(memberIds[0], "a member"),
      contentId,
      sizeBytes: bytes.length,
      treeHash,
      seals: memberIds.map((memberId) => ({
        extent: { contentId, extentIndex: 0 },
        sizeBytes: bytes.length,
        root: treeHash,
        memberId,
        storeIncarnation: `store-${memberId}`,
      })),
    },
  });
}

/** The answer to each request, so that the taker sets the pace: commands one behind the other. */
export interface EncodedBatch {
  readonly sizes: Uint32Array;
  readonly bytes: Uint8Array;
}

function encodeBatch(settings: EncoderSettings, from: number): EncodedBatch {
  const commands: Uint8Array[] = [];
  const end = Math.min(settings.entryCount, from + settings.filesPerFolder);
  for (let index = from; index < end; index += 1) commands.push(command(index, settings));
  return { sizes: Uint32Array.from(commands, (each) => each.length), bytes: Buffer.concat(commands) };
}

if (process.send !== undefined) {
  let settings: EncoderSettings | undefined;
  let next = 0;
  process.on("message", (message: EncoderSettings | "next") => {
    if (message !== "next") {
      settings = message;
      return;
    }
    const batch = encodeBatch(must(settings, "the first message"), next);
    next += batch.sizes.length;
    process.send?.(batch);
  });
}
