/**
 * Between the Progress message of netdisk.v1 and the type of drive/drive-api.ts. The rules are those of codec.ts.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  ProgressKind,
  ProgressPhase,
  type Progress as WireProgress,
  type ProgressSchema,
} from "../../gen/netdisk/v1/upload_pb.ts";
import type { Progress } from "../drive/drive-api.ts";
import { keyOf, required, toBigint, toNumber, toOptionalBigint, toOptionalNumber } from "./codec.ts";

const KINDS: Readonly<Record<Progress["kind"], ProgressKind>> = {
  upload: ProgressKind.UPLOAD,
  download: ProgressKind.DOWNLOAD,
};

const PHASES: Readonly<Record<Progress["phase"], ProgressPhase>> = {
  receiving: ProgressPhase.RECEIVING,
  sealing: ProgressPhase.SEALING,
  committing: ProgressPhase.COMMITTING,
  sending: ProgressPhase.SENDING,
  done: ProgressPhase.DONE,
  failed: ProgressPhase.FAILED,
};

/** The wire form of progress. */
export function encodeProgress(progress: Progress): MessageInitShape<typeof ProgressSchema> {
  const sizeBytes = toOptionalBigint(progress.sizeBytes);
  return {
    id: progress.id,
    kind: KINDS[progress.kind],
    phase: PHASES[progress.phase],
    ...(sizeBytes !== undefined && { sizeBytes }),
    transferredBytes: toBigint(progress.transferredBytes),
    copiedBytes: progress.copiedBytes.map(toBigint),
    errorReason: progress.errorReason ?? "",
  };
}

/** The progress in a message. */
export function decodeProgress(progress: WireProgress | undefined): Progress {
  const wire = required(progress, "progress");
  const [one = 0, two = 0, three = 0] = wire.copiedBytes.map((each) => toNumber(each, "copied_bytes"));
  return {
    id: wire.id,
    kind: keyOf(KINDS, wire.kind, "kind"),
    phase: keyOf(PHASES, wire.phase, "phase"),
    sizeBytes: toOptionalNumber(wire.sizeBytes, "size_bytes"),
    transferredBytes: toNumber(wire.transferredBytes, "transferred_bytes"),
    copiedBytes: [one, two, three],
    errorReason: wire.errorReason === "" ? undefined : wire.errorReason,
  };
}
