#!/usr/bin/env python3
"""Streams one generation under compaction: generate.py HOST:PORT PROMPT. Needs grpcio and grpcio-tools.

The address of a run's replica stands in <run>/addresses/inference-0.
"""
import pathlib
import sys
import tempfile
import uuid

import grpc
from grpc_tools import protoc

PROTOS = pathlib.Path(__file__).resolve().parent.parent / "protos"


def stubs():
    """Makes the Python stubs from protos/ and imports those of the inference service."""
    names = [str(path.relative_to(PROTOS)) for path in PROTOS.glob("palimpsest/v1/*.proto")]
    with tempfile.TemporaryDirectory() as folder:
        if protoc.main(["protoc", f"-I{PROTOS}", f"--python_out={folder}", f"--grpc_python_out={folder}", *names]) != 0:
            sys.exit("protoc failed")
        sys.path.insert(0, folder)
        from palimpsest.v1 import inference_pb2, inference_pb2_grpc
        sys.path.remove(folder)
    return inference_pb2, inference_pb2_grpc


def main(address, prompt):
    pb, pb_grpc = stubs()
    request = pb.GenerateRequest(
        request_id=str(uuid.uuid4()),  # the same id again joins the same generation
        prompt_text=prompt,
        sampling=pb.SamplingParams(temperature=0, max_tokens=64),
        stream_tokens=True,
    )
    request.context.kv_budget.budget = 32  # slots, prompt included
    request.context.kv_budget.window = 16
    with grpc.insecure_channel(address) as channel:
        stub = pb_grpc.InferenceServiceStub(channel)
        for update in stub.Generate(request, timeout=60):
            kind = update.WhichOneof("update")
            if kind == "tokens":
                print(update.tokens.text, end="", flush=True)
            elif kind == "compaction":
                event = update.compaction.event
                print(f"<{event.window.begin}..{event.window.end} compacted at {event.at}>", end="", flush=True)
            elif kind == "finished":
                print(f"\n{len(update.finished.rollout.events)} events")
            elif kind == "error":
                sys.exit(f"failed: {update.error.message}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: generate.py HOST:PORT PROMPT")
    main(*sys.argv[1:])
