/**
 * The shapes of JSON bodies and parameters, in and out. /openapi.json is made from them, so what is checked is what is documented.
 *
 * Objects are strict: an unknown field is an error, not a silent loss of what the client meant. Ids travel as decimal strings
 * (JavaScript clients would round large numbers), times as RFC 3339, permission bits as octal digits, digests as hexadecimal.
 */
import { z } from "zod";
import { PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, CONTENT_SIZE_BYTES_MAX } from "../drive/limits.ts";
import { TASK_KINDS } from "../drive/task.ts";
import { fromHex } from "../std/bytes.ts";
import { DIGEST_SIZE_BYTES } from "../std/digest.ts";
import { isMediaType } from "./headers.ts";
import { PROGRESS_ID_LENGTH_MAX } from "./limits.ts";

/** An entry or upload id. */
export const idSchema = z
  .string()
  .regex(/^[1-9]\d{0,15}$/, { error: "not a positive decimal integer", abort: true })
  .refine((text) => Number.isSafeInteger(Number(text)), "too large for an id")
  .transform(Number)
  .meta({ description: "Identity, a positive decimal integer.", examples: ["42"] });

/** An absolute path; its names are checked by drive/path.ts, which has reasons of its own. */
export const pathSchema = z
  .string()
  .meta({ description: 'Absolute path, "/" for the root.', examples: ["/photos/2026/a.jpg"] });

const nameSchema = z
  .string()
  .meta({ description: "Name of an entry, 1 to 255 bytes of UTF-8 in NFC.", examples: ["a.jpg"] });

/** A moment in time. */
export const timeSchema = z.iso
  .datetime({ offset: true, error: "not an RFC 3339 date and time" })
  .transform((text) => Date.parse(text))
  .meta({ description: "Date and time, RFC 3339.", examples: ["2026-01-02T03:04:05.000Z"] });

/** Permission bits. */
export const modeSchema = z
  .string()
  .regex(/^0?[0-7]{1,4}$/, "not one to four octal digits")
  .transform((text) => Number.parseInt(text, 8))
  .meta({ description: "Permission bits as octal digits.", examples: ["0644"] });

const mediaTypeSchema = z
  .string()
  .refine((text) => text === "" || isMediaType(text), "not a media type of at most 255 characters")
  .meta({ description: "Media type; empty for unknown.", examples: ["text/plain"] });

/** What happens when the name is taken. */
export const onConflictSchema = z.enum(["fail", "rename", "replace"]).meta({
  description: 'When the name is taken: refuse, take "name (2)", or put the new one in its place.',
});

/** A request id in a body or header. */
export const requestIdSchema = z
  .string()
  .regex(/^[\x21-\x7e]{1,64}$/, "not 1 to 64 printable ASCII characters without spaces")
  .meta({
    description:
      "The same id again within 15 minutes returns the first answer and changes nothing; for another change it is refused.",
  });

/** A yes-or-no query parameter; its bare name means yes. */
export const flagSchema = z
  .enum(["", "true", "false"], { error: 'neither "true" nor "false"' })
  .transform((text) => text !== "false");

/** How fresh a read must be. */
export const consistencySchema = z.enum(["linearizable", "stale"]).optional().meta({
  description: '"stale" answers from this node alone, also without a leader.',
});

/** An integer query parameter from `min` to `max`. */
export function integerSchema(min: number, max: number) {
  return z
    .string()
    .regex(/^\d{1,16}$/, "not a whole number")
    .transform(Number)
    .refine((value) => value >= min && value <= max, `not from ${min} to ${max}`)
    .meta({ description: `Whole number from ${min} to ${max}.` });
}

/** Parameters of a listing. */
export const listQuerySchema = z.strictObject({
  path: pathSchema.default("/"),
  cursor: z.string().max(4096).optional(),
  limit: integerSchema(1, PAGE_SIZE_MAX).default(PAGE_SIZE_DEFAULT),
  consistency: consistencySchema,
});

const sizeSchema = z
  .int("not a whole number")
  .min(0, "below 0")
  .max(CONTENT_SIZE_BYTES_MAX, `over the maximum of ${CONTENT_SIZE_BYTES_MAX} bytes`)
  .meta({ description: "Bytes; absent when not known yet." });

const treeHashSchema = z
  .string()
  .transform((text) => fromHex(text))
  .refine((bytes): bytes is Uint8Array => bytes?.length === DIGEST_SIZE_BYTES, "not 64 hexadecimal digits")
  .meta({ description: "SHA-256 tree hash with 1 MiB leaves, 64 hexadecimal digits." });

const attributeFields = {
  modifyTime: timeSchema.optional(),
  mode: modeSchema.optional(),
  mediaType: mediaTypeSchema.optional(),
};

/** Body of POST /api/upload/init. */
export const initBodySchema = z.strictObject({
  name: nameSchema,
  path: pathSchema.default("/").meta({ description: "Folder of the file." }),
  size: sizeSchema.optional(),
  treeHash: treeHashSchema.optional(),
  onConflict: onConflictSchema.default("fail"),
  createParents: z.boolean().default(true),
  ...attributeFields,
  requestId: requestIdSchema.optional(),
});

/** Body of POST /api/upload/complete. */
export const completeBodySchema = z.strictObject({
  fileId: idSchema,
  size: sizeSchema.optional(),
  onConflict: onConflictSchema
    .optional()
    .meta({ description: "When the name is taken; absent: as the start of the upload said." }),
  requestId: requestIdSchema.optional(),
});

/** Body of POST /api/folders. */
export const folderBodySchema = z.strictObject({
  path: pathSchema,
  createParents: z.boolean().default(false),
  existOk: z.boolean().default(false),
  modifyTime: timeSchema.optional(),
  mode: modeSchema.optional(),
  requestId: requestIdSchema.optional(),
});

/** Body of POST /api/files/{fileId}/copy. */
export const copyBodySchema = z.strictObject({
  path: pathSchema.meta({ description: "Absolute path of the copy." }),
  onConflict: onConflictSchema.default("fail"),
  requestId: requestIdSchema.optional(),
});

/** Body of PATCH /api/files: a new place, or new attributes; never both, because they are two changes. */
export const patchBodySchema = z
  .strictObject({
    name: nameSchema.optional(),
    parentPath: pathSchema
      .optional()
      .meta({ description: "Folder to move into, under the same or the new name." }),
    path: pathSchema.optional().meta({ description: "New absolute path; instead of name and parentPath." }),
    onConflict: onConflictSchema.optional(),
    ...attributeFields,
    requestId: requestIdSchema.optional(),
  })
  .superRefine((body, context) => {
    const moves = body.name !== undefined || body.parentPath !== undefined || body.path !== undefined;
    const updates = body.modifyTime !== undefined || body.mode !== undefined || body.mediaType !== undefined;
    const refuse = (message: string): void => context.addIssue({ code: "custom", message });
    if (!moves && !updates) refuse("nothing to change");
    if (moves && updates) refuse("a new place and new attributes are two changes: send two requests");
    if (body.path !== undefined && (body.name !== undefined || body.parentPath !== undefined)) {
      refuse("path stands instead of name and parentPath");
    }
    if (!moves && body.onConflict !== undefined) refuse("onConflict goes with a new place");
  });

/** Path parameter of routes about one entry or upload. */
export const fileIdParamsSchema = z.strictObject({ fileId: idSchema });

/** Path parameter of a progress stream. */
export const progressParamsSchema = z.strictObject({
  id: z.string().regex(new RegExp(`^[\\x21-\\x7e]{1,${PROGRESS_ID_LENGTH_MAX}}$`), "not a progress id"),
});

const hex64 = z.string().meta({ description: "64 hexadecimal digits.", pattern: "^[0-9a-f]{64}$" });
const idText = z.string().meta({ description: "Decimal integer." });
const time = z.string().meta({ format: "date-time" });
const count = z.int().min(0);

/** Answer of the durability route. */
export const durabilityViewSchema = z
  .strictObject({
    verifiedCount: count.meta({ description: "Fewest verified copies of any part of the file." }),
    nodeIds: z.array(z.string()),
    oldestCheckAgeMs: z.number().nullable().meta({
      description:
        "How long ago the copy that waits longest was last read whole; null when that is not known.",
    }),
    text: z.string().meta({ examples: ["3/3 verified, oldest check 2d ago"] }),
  })
  .meta({ id: "Durability" });

/** A file or folder. */
export const fileViewSchema = z
  .strictObject({
    fileId: idText,
    parentId: idText,
    name: z.string(),
    path: z.string().optional(),
    kind: z.enum(["file", "directory"]),
    size: count,
    version: idText,
    etag: z.string(),
    treeHash: hex64.optional(),
    sha256: hex64.optional().meta({ description: "Plain SHA-256, once it is known." }),
    mediaType: z.string(),
    mode: z.string().optional(),
    modifyTime: time,
    createTime: time,
    durability: durabilityViewSchema
      .optional()
      .meta({ description: "Of a file that was asked for by id or path." }),
  })
  .meta({ id: "File" });

/** A run of chunks. */
const chunkRangeSchema = z.strictObject({ first: count, last: count });

/** Answer of POST /api/upload/init. */
export const ticketViewSchema = z
  .strictObject({
    fileId: idText,
    chunkSize: count,
    chunkCount: count.nullable(),
    targets: z.array(z.strictObject({ nodeId: z.string(), address: z.string() })),
    missing: z.array(chunkRangeSchema),
    instant: z.boolean(),
    file: fileViewSchema.optional(),
    expiresAt: time,
  })
  .meta({ id: "UploadTicket" });

/** Answer of GET /api/upload/{fileId}. */
export const uploadViewSchema = z
  .strictObject({
    fileId: idText,
    path: z
      .string()
      .meta({ description: "Empty when its folder was deleted meanwhile: it cannot be completed any more." }),
    state: z.enum(["open", "complete"]),
    size: count.nullable(),
    chunkSize: count,
    chunkCount: count.nullable(),
    missing: z.array(chunkRangeSchema),
    committedSize: count,
    file: fileViewSchema.optional(),
    expiresAt: time,
  })
  .meta({ id: "Upload" });

/** Answer of POST /api/upload/chunk. */
export const receiptViewSchema = z
  .strictObject({ index: count, digest: hex64, replicas: count })
  .meta({ id: "ChunkReceipt" });

/** Answer of GET /api/files. */
export const pageViewSchema = z
  .strictObject({ path: z.string(), files: z.array(fileViewSchema), nextCursor: z.string().nullable() })
  .meta({ id: "FilePage" });

/** One event of GET /api/progress/{id}. */
export const progressViewSchema = z
  .strictObject({
    id: z.string(),
    kind: z.enum(["upload", "download"]),
    phase: z.enum(["receiving", "sealing", "committing", "sending", "done", "failed"]),
    size: count.nullable(),
    transferredBytes: count,
    copiedBytes: z.array(count).length(3).meta({ description: "Bytes that 1, 2 and 3 nodes hold." }),
    errorReason: z.string().optional(),
  })
  .meta({ id: "Progress" });

const serviceViewSchema = z
  .strictObject({
    name: z.string(),
    state: z.enum(["up", "degraded", "off"]),
    since: z.string().meta({ description: "Since when, RFC 3339." }),
    detail: z.string().meta({ description: "What is wrong; empty when nothing is." }),
  })
  .meta({ id: "Service" });

/** A service outside of the node, which it serves without. */
export type ServiceView = z.output<typeof serviceViewSchema>;

/** What a node told of itself in Redis. */
const reportViewSchema = z.strictObject({
  source: z.literal("redis"),
  seenTime: time,
  ready: z.boolean(),
  inflightBytes: count,
  appliedIndex: count,
  freeBytes: count,
  totalBytes: count,
  transfers: z.array(
    z.strictObject({
      id: z.string(),
      kind: z.enum(["upload", "download"]),
      size: count.optional(),
      transferredBytes: count,
    }),
  ),
  tasks: z.array(
    z.strictObject({
      taskId: z.string(),
      kind: z.enum(TASK_KINDS),
      since: time,
      doneCount: count,
      totalCount: count,
    }),
  ),
});

/** A figure of a node, as last heard. */
const heardCount = count.nullable().meta({
  description: "As last heard; null when nothing was heard of the node since the one that answers started.",
});

/** Answer of GET /api/cluster. */
export const clusterViewSchema = z
  .strictObject({
    clusterId: z.string(),
    nodeId: z.string(),
    leaderId: z.string().nullable(),
    term: count,
    commitIndex: count,
    appliedIndex: count,
    clusterTimeMs: z.number(),
    nodes: z.array(
      z.strictObject({
        nodeId: z.string(),
        memberId: idText,
        role: z.enum(["leader", "voter", "learner", "storage"]),
        health: z.enum(["up", "suspect", "down"]),
        sinceMs: count.meta({
          description:
            "Milliseconds for which it has been up; of one that is not, since it was last heard of.",
        }),
        address: z.string(),
        httpUrl: z.string(),
        publicUrl: z.string(),
        zone: z.string(),
        freeBytes: heardCount,
        totalBytes: heardCount,
        appliedIndex: heardCount,
        liveBytes: heardCount,
        full: z.boolean().meta({
          description: "Whether its disk has reached its reserve, so that it takes no new files.",
        }),
        lost: z.boolean(),
        draining: z.boolean(),
        scrub: z
          .strictObject({
            pass: count,
            beganAgoMs: z.number(),
            endedAgoMs: z.number(),
            extentCount: count,
            bytes: count,
            damagedCount: count,
          })
          .nullable(),
        scrubProgress: z.number().nullable(),
        quarantinedCount: count,
        collectionBrake: z
          .strictObject({ extentCount: count, orphanCount: count, futureCount: count })
          .nullable()
          .meta({
            description: "Why the node collects nothing that the tree does not know; null while it would.",
          }),
        report: reportViewSchema.optional(),
        featureLevelMax: count
          .nullable()
          .meta({ description: "Highest feature level that the node supports; null while not known." }),
      }),
    ),
    replicas: z.strictObject({
      extentCount: count,
      fullyReplicatedCount: count,
      underReplicatedCount: count,
      suspectCount: count,
      corruptCount: count,
      lostCount: count,
      unverifiedCount: count,
      singleCopyCount: count,
      noCopyCount: count,
      missingCopyBytes: count,
      movingCount: count,
      recounting: z.boolean(),
      repairBytesPerSecond: z.number(),
      redundantInMs: z.number().nullable(),
    }),
    fileCount: count,
    directoryCount: count,
    openUploadCount: count,
    contentBytes: count.meta({ description: "Bytes of all files; those that files share count once." }),
    services: z.array(serviceViewSchema),
    treeSnapshot: z
      .strictObject({ index: count, sizeBytes: count, madeTime: time, behindMs: count })
      .nullable(),
    preparedDownloads: z
      .strictObject({ downloadCount: count, fileCount: count, sizeBytes: count, expireTime: time })
      .nullable()
      .meta({
        description:
          "What prepared downloads keep as it was, also when users delete it; not in the other figures.",
      }),
    featureLevel: count
      .nullable()
      .meta({ description: "Feature level of the cluster: raised when every node supports a newer one." }),
  })
  .meta({ id: "Cluster" });

/** Answer of the health routes. */
export const healthViewSchema = z
  .strictObject({
    status: z.enum(["ok", "unready"]),
    problems: z.array(z.string()),
    nodeId: z.string().optional(),
    version: z.string().optional(),
    uptimeSeconds: z.number().optional(),
    services: z.array(serviceViewSchema).optional(),
    warnings: z
      .array(z.string())
      .optional()
      .meta({ description: "What an operator should look at; never makes the node unready." }),
  })
  .meta({ id: "Health" });

/** Answer of GET /version. */
export const versionViewSchema = z
  .strictObject({ nodeId: z.string(), version: z.string() })
  .meta({ id: "Version" });

/** The body of every error. */
export const errorViewSchema = z
  .strictObject({
    error: z.strictObject({
      code: z.string().meta({ description: "Stable name of what went wrong.", examples: ["PATH_NOT_FOUND"] }),
      message: z.string(),
      remedy: z.string(),
      metadata: z.record(z.string(), z.string()),
      outcomeUnknown: z.literal(true).optional().meta({
        description: "The change may have happened: repeat it only with the same request id.",
      }),
      id: z.string().optional().meta({ description: "Finds the details in the node's log." }),
    }),
  })
  .meta({ id: "Error" });
