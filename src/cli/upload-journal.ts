/**
 * Remembers unfinished uploads of large files between runs, so that the same `put` after an interruption goes on.
 *
 * One small file per upload in the state directory, named by a digest of source, destination and nodes. It is a hint and
 * never trusted: the cluster is asked what the upload is and what is missing, and at the end the tree hash of the whole
 * file is compared. Losing it costs sending again; a stale one is removed.
 */
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { toHex, utf8 } from "../std/bytes.ts";
import { errnoOf } from "../std/disk.ts";
import { makeDirectories } from "../std/make-directories.ts";
import { sha256 } from "../std/digest.ts";

/** What an upload was begun for. Another source, size or time makes another upload. */
export interface UploadIdentity {
  /** Absolute path here. */
  readonly sourcePath: string;
  /** Absolute path on the drive, as asked for. */
  readonly targetPath: string;
  readonly sizeBytes: number;
  readonly modifyTimeMs: number;
  /** The nodes talked to, as given. */
  readonly nodes: string;
  readonly onConflict: string;
}

/** The uploads begun from this machine. */
export class UploadJournal {
  readonly #directory: string;

  /** @param stateDirectory made when first needed */
  constructor(stateDirectory: string) {
    this.#directory = join(stateDirectory, "uploads");
  }

  /** The upload begun for `identity`, or undefined. Anything unreadable counts as none. */
  async find(identity: UploadIdentity): Promise<number | undefined> {
    try {
      const parsed: unknown = JSON.parse(await readFile(this.#pathOf(identity), "utf8"));
      if (typeof parsed !== "object" || parsed === null || !("uploadId" in parsed)) return undefined;
      return typeof parsed.uploadId === "number" && Number.isSafeInteger(parsed.uploadId)
        ? parsed.uploadId
        : undefined;
    } catch (error) {
      if (error instanceof SyntaxError || errnoOf(error) === "ENOENT") return undefined;
      throw error;
    }
  }

  /** Remembers that `uploadId` was begun for `identity`. */
  async put(identity: UploadIdentity, uploadId: number): Promise<void> {
    await makeDirectories(this.#directory, 0o700);
    const path = this.#pathOf(identity);
    await writeFile(`${path}.new`, JSON.stringify({ uploadId, ...identity }), { mode: 0o600 });
    await rename(`${path}.new`, path);
  }

  /** Forgets it; harmless when unknown. */
  async remove(identity: UploadIdentity): Promise<void> {
    await rm(this.#pathOf(identity), { force: true });
  }

  #pathOf(identity: UploadIdentity): string {
    const text = [
      identity.sourcePath,
      identity.targetPath,
      identity.sizeBytes,
      identity.modifyTimeMs,
      identity.nodes,
      identity.onConflict,
    ].join("\0");
    return join(this.#directory, `${toHex(sha256(utf8(text)))}.json`);
  }
}
