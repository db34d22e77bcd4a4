/**
 * Goal: every reason of the catalogue survives the way over gRPC, and nothing else leaves a node as it is.
 * Method: walk the catalogue and the proto enum together; encode and decode every row.
 */
import { Metadata, status, type ServiceError } from "@grpc/grpc-js";
import { expect } from "chai";
import { ErrorReason as WireReason } from "../../../gen/netdisk/v1/error_pb.ts";
import { decodeReason, encodeReason } from "../../../src/contract/error-detail.ts";
import { DriveError, REASONS, isErrorReason, type ErrorReason } from "../../../src/drive/errors.ts";
import {
  decodeFailure,
  decodeStatus,
  encodeFailure,
  encodeStatus,
  toDriveError,
} from "../../../src/rpc/error-codec.ts";

const reasons = Object.keys(REASONS).filter(isErrorReason);
const foreign = { lostReason: "PEER_UNREACHABLE", address: "n1:29001" } as const;

function received(error: DriveError): ServiceError {
  const { code, details, metadata } = encodeStatus(error);
  return Object.assign(new Error(details), { code, details, metadata });
}

function bare(code: number, details = "no details"): ServiceError {
  return Object.assign(new Error(details), { code, details, metadata: new Metadata() });
}

describe("error codec", () => {
  it("has the same names in the catalogue and in the proto enum", () => {
    const wire = Object.keys(WireReason).filter((name) => name !== "UNSPECIFIED");

    expect(wire.toSorted()).to.deep.equal(reasons.toSorted());
  });

  for (const reason of reasons) {
    it(`carries ${reason} with its message and metadata`, () => {
      const error = new DriveError(reason, "Größe: 7 of 5.", { size_bytes: "7" });

      const back = decodeStatus(received(error), foreign);

      expect(back.reason).to.equal(reason);
      expect(back.message).to.equal(error.message);
      expect(back.metadata).to.deep.equal(error.metadata);
      expect(decodeReason(encodeReason(reason))).to.equal(reason);
      expect(decodeFailure({ ...encodeFailure(error) } as never).reason).to.equal(reason);
    });
  }

  it("never says unavailable of a change that may have happened", () => {
    const indefinite = reasons.filter((reason) => REASONS[reason].outcome === "indefinite");

    const codes = indefinite.map((reason) => encodeStatus(new DriveError(reason, "x")).code);

    expect(codes).to.not.include(status.UNAVAILABLE);
  });

  const cases: readonly { readonly code: number; readonly details?: string; readonly reason: ErrorReason }[] =
    [
      { code: status.UNAVAILABLE, reason: "PEER_UNREACHABLE" },
      { code: status.DEADLINE_EXCEEDED, reason: "PEER_UNREACHABLE" },
      { code: status.CANCELLED, reason: "PEER_UNREACHABLE" },
      { code: status.UNKNOWN, reason: "PEER_UNREACHABLE" },
      { code: status.INVALID_ARGUMENT, reason: "ARGUMENT_INVALID" },
      { code: status.RESOURCE_EXHAUSTED, reason: "OVERLOADED" },
      { code: status.RESOURCE_EXHAUSTED, details: "message larger than max", reason: "PAYLOAD_TOO_LARGE" },
      { code: status.UNIMPLEMENTED, reason: "INTERNAL" },
    ];
  for (const { code, details, reason } of cases) {
    it(`takes status ${status[code]} without details (${details ?? "any text"}) for ${reason}`, () => {
      expect(decodeStatus(bare(code, details), foreign).reason).to.equal(reason);
    });
  }

  it("takes a trailer that is no status for what the status says", () => {
    const error = bare(status.UNAVAILABLE);
    error.metadata.set("grpc-status-details-bin", Buffer.from([0xff, 0xff]));

    expect(decodeStatus(error, foreign).reason).to.equal("PEER_UNREACHABLE");
  });

  it("shows an id instead of a foreign error, and reports it once", () => {
    const reported: unknown[] = [];
    const reporter = { newErrorId: () => "e1", report: (error: unknown) => void reported.push(error) };
    const secret = new Error("password=1234");

    const shown = toDriveError(secret, { reporter, method: "/a/B", signal: new AbortController().signal });

    expect(shown.reason).to.equal("INTERNAL");
    expect(shown.message).to.equal("Internal error (e1).");
    expect(shown.metadata).to.deep.equal({ error_id: "e1" });
    expect(reported).to.deep.equal([secret]);
  });
});
