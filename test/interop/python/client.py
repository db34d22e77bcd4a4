"""A client of netdisk in Python, generated from the protos: what a program in another language does with the contract.

Usage: client.py GENERATED_DIRECTORY ADDRESS COMMAND ...
  upload PATH FILE STOP_AFTER_CHUNKS   starts an upload and cuts it off once so many chunks were acknowledged
  resume UPLOAD_ID FILE                asks what is missing, sends that, and completes
  download PATH FILE STOP_AFTER_BYTES  downloads, cuts the stream off on the way, and goes on from the offset reached
  reason PATH                          asks for an entry and prints the reason of the error
Each command prints one JSON object.
"""

import hashlib
import json
import os
import queue
import sys

sys.path.insert(0, sys.argv[1])

import grpc
from google.rpc import status_pb2
from netdisk.v1 import chunk_service_pb2 as chunks
from netdisk.v1 import chunk_service_pb2_grpc
from netdisk.v1 import entry_pb2
from netdisk.v1 import error_pb2
from netdisk.v1 import metadata_service_pb2 as metadata
from netdisk.v1 import metadata_service_pb2_grpc

FRAME_SIZE_BYTES = 256 * 1024
TIMEOUT_SECONDS = 60


def frames(upload_id, file, ranges):
    """The bytes of FILE in the given (start, end) ranges, in frames smaller than a chunk."""
    yield chunks.UploadRequest(upload_id=upload_id)
    with open(file, "rb") as source:
        for start, end in ranges:
            source.seek(start)
            offset = start
            while offset < end:
                data = source.read(min(FRAME_SIZE_BYTES, end - offset))
                yield chunks.UploadRequest(offset=offset, data=data)
                offset += len(data)


def upload(stub, path, file, stop_after_chunks):
    size = os.path.getsize(file)
    ticket = stub.InitUpload(
        chunks.InitUploadRequest(path=path, size_bytes=size, request_id="python-" + os.urandom(8).hex()),
        timeout=TIMEOUT_SECONDS,
    )
    # Frames go out as answers come in, so that the cut really falls into the middle.
    outgoing = queue.Queue()
    source = frames(ticket.upload_id, file, [(0, size)])
    frames_per_chunk = ticket.chunk_size_bytes // FRAME_SIZE_BYTES
    for _ in range(1 + 2 * frames_per_chunk):
        outgoing.put(next(source, None))
    call = stub.Upload(iter(outgoing.get, None), timeout=TIMEOUT_SECONDS)
    acknowledged = 0
    for answer in call:
        acknowledged += 1
        if acknowledged == stop_after_chunks:
            call.cancel()
            break
        for _ in range(frames_per_chunk):
            outgoing.put(next(source, None))
    return {"uploadId": ticket.upload_id, "acknowledged": acknowledged, "committed": answer.committed_size_bytes}


def resume(stub, upload_id, file):
    status = stub.QueryUpload(chunks.QueryUploadRequest(upload_id=upload_id), timeout=TIMEOUT_SECONDS).status
    chunk = status.chunk_size_bytes
    ranges = [(r.first * chunk, min((r.last + 1) * chunk, status.size_bytes)) for r in status.missing]
    committed = status.committed_size_bytes
    for answer in stub.Upload(frames(upload_id, file, ranges), timeout=TIMEOUT_SECONDS):
        committed = answer.committed_size_bytes
    done = stub.CompleteUpload(
        chunks.CompleteUploadRequest(upload_id=upload_id, request_id="python-" + os.urandom(8).hex()),
        timeout=TIMEOUT_SECONDS,
    )
    return {
        "resumedAt": status.committed_size_bytes,
        "committed": committed,
        "path": done.path_entry.path,
        "sizeBytes": done.path_entry.entry.size_bytes,
        "treeHash": done.path_entry.entry.tree_hash.hex(),
    }


def read_from(stub, path, target, offset, stop_after_bytes):
    """Appends to TARGET from OFFSET on; returns the content id and how far it came."""
    request = chunks.DownloadRequest(ref=entry_pb2.EntryRef(path=path), offset=offset)
    call = stub.Download(iter([request]), timeout=TIMEOUT_SECONDS)
    content_id = None
    for frame in call:
        if frame.HasField("header"):
            content_id = frame.header.entry.content_id
        assert not frame.data or frame.offset == offset, "frames come in order"
        target.write(frame.data)
        offset += len(frame.data)
        if stop_after_bytes is not None and offset >= stop_after_bytes:
            call.cancel()
            break
    return content_id, offset


def download(stub, path, file, stop_after_bytes):
    with open(file, "wb") as target:
        first_content, cut_at = read_from(stub, path, target, 0, stop_after_bytes)
        second_content, end = read_from(stub, path, target, cut_at, None)
    assert first_content == second_content, "both halves are of one version"
    with open(file, "rb") as target:
        digest = hashlib.sha256(target.read()).hexdigest()
    return {"cutAt": cut_at, "sizeBytes": end, "sha256": digest}


def reason(channel, path):
    stub = metadata_service_pb2_grpc.MetadataServiceStub(channel)
    try:
        stub.Stat(metadata.StatRequest(ref=entry_pb2.EntryRef(path=path)), timeout=TIMEOUT_SECONDS)
    except grpc.RpcError as error:
        trailers = dict(error.trailing_metadata())
        status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        detail = error_pb2.ErrorDetail()
        status.details[0].Unpack(detail)
        return {"code": error.code().name, "reason": error_pb2.ErrorReason.Name(detail.reason)}
    return {"code": "OK", "reason": ""}


def main():
    address, command, arguments = sys.argv[2], sys.argv[3], sys.argv[4:]
    with grpc.insecure_channel(address) as channel:
        stub = chunk_service_pb2_grpc.ChunkServiceStub(channel)
        if command == "upload":
            result = upload(stub, arguments[0], arguments[1], int(arguments[2]))
        elif command == "resume":
            result = resume(stub, int(arguments[0]), arguments[1])
        elif command == "download":
            result = download(stub, arguments[0], arguments[1], int(arguments[2]))
        elif command == "reason":
            result = reason(channel, arguments[0])
        else:
            raise SystemExit(f"unknown command {command}")
    print(json.dumps(result))


main()
