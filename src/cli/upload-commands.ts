/** `netdisk uploads`: ls and discard. */
import { InvalidArgumentError, type Command } from "commander";
import type { OpenUpload, UploadStatus } from "../drive/drive-api.ts";
import { hasReason } from "../drive/errors.ts";
import { formatBytes, formatDuration, formatTable, formatTime, isoTime, printable } from "../std/format.ts";
import type { CommandContext } from "./command-context.ts";
import { EXIT_OK } from "./exit-code.ts";

type Action = (context: CommandContext) => Promise<number>;

/** Uploads asked for at a time. */
const PAGE_SIZE = 100;

/** Shows all uploads that are not finished, in the order in which they were begun. */
export async function listUploads({ drive, patience, output }: CommandContext): Promise<number> {
  const rows: string[][] = [["UPLOAD", "RECEIVED", "IDLE AT MOST", "KEPT UNTIL (UTC)", "PATH"]];
  let cursor: string | undefined;
  do {
    const page = { cursor, countMax: PAGE_SIZE };
    const answer = await patience.read((signal) => drive.openUploads(page, { signal }));
    cursor = answer.nextCursor;
    for (const upload of answer.uploads) {
      const { uploadId, path, sizeBytes, idleMs, expireTimeMs } = upload;
      const receivedBytes = await received({ drive, patience }, upload);
      if (output.json) {
        await output.record({
          ...{ uploadId: String(uploadId), path, sizeBytes: sizeBytes ?? null },
          ...{ receivedBytes: receivedBytes ?? null, idleMs, expireTime: isoTime(expireTimeMs) },
        });
        continue;
      }
      const known = receivedBytes === undefined ? "?" : formatBytes(receivedBytes);
      rows.push([
        String(uploadId),
        sizeBytes === undefined ? known : `${known} of ${formatBytes(sizeBytes)}`,
        ...[formatDuration(idleMs), formatTime(expireTimeMs)],
        path === "" ? "(its folder was deleted)" : printable(path),
      ]);
    }
  } while (cursor !== undefined);
  if (output.json) return EXIT_OK;
  if (rows.length === 1) await output.line("There are no unfinished uploads.");
  else for (const line of formatTable(rows, [])) await output.line(line.trimEnd());
  return EXIT_OK;
}

/** Bytes of an upload that two nodes hold; undefined when it ended meanwhile, or never can be completed. */
async function received(
  { drive, patience }: Pick<CommandContext, "drive" | "patience">,
  { uploadId }: OpenUpload,
): Promise<number | undefined> {
  let status: UploadStatus;
  try {
    status = await patience.read((signal) => drive.uploadStatus(uploadId, { signal }));
  } catch (error) {
    if (hasReason(error, "UPLOAD_NOT_FOUND", "UPLOAD_EXPIRED", "DIGEST_MISMATCH")) return undefined;
    throw error;
  }
  const { sizeBytes, chunkSizeBytes, committedSizeBytes, missing } = status;
  if (sizeBytes === undefined) return committedSizeBytes;
  const missingBytes = missing.map(
    ({ first, last }) => Math.min(sizeBytes, (last + 1) * chunkSizeBytes) - first * chunkSizeBytes,
  );
  return missingBytes.reduce((left, bytes) => left - bytes, sizeBytes);
}

/** Discards uploads and what was sent for them. */
export async function discardUploads(
  { drive, patience, output }: CommandContext,
  uploadIds: readonly number[],
): Promise<number> {
  for (const uploadId of uploadIds) {
    const requestId = patience.requestId();
    await patience.run((signal) => drive.abortUpload(uploadId, { requestId, signal }));
    if (output.json) await output.record({ uploadId: String(uploadId), discarded: true });
    else await output.line(`Upload ${uploadId} is discarded: its space comes back within a few minutes.`);
  }
  return EXIT_OK;
}

function parseUploadId(text: string): number {
  if (/^[1-9][0-9]{0,14}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("An upload has a number, as netdisk uploads ls shows it.");
}

/** Adds the commands. @param add gives a command the options of those that talk to a drive, and its action */
export function addUploadCommands(
  program: Command,
  add: (command: Command, make: (args: readonly string[]) => Action) => void,
): void {
  const uploads = program.command("uploads").description("Uploads that are not finished.");
  add(
    uploads.command("ls").description("List them: what was received, and until when it is kept."),
    () => listUploads,
  );
  const discard = uploads
    .command("discard")
    .description("Discard uploads and what was sent for them; put begins them anew.")
    .argument("<uploads...>", "numbers of the uploads");
  add(discard, (args) => {
    const uploadIds = args.map(parseUploadId);
    return (context) => discardUploads(context, uploadIds);
  });
}
