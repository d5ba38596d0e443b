#!/usr/bin/env python3
"""Streams one generation under compaction: generate.py HOST:PORT PROMPT [--tls FOLDER]. Needs grpcio and grpcio-tools.

The address of a run's replica stands in <run>/addresses/inference-0, its certificates in <run>/tls (deploy/tls).
"""
import argparse
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


def open_channel(address, tls):
    """Under TLS as the role client when `tls` names a folder with ca.pem and client.pem, else in clear text."""
    if not tls:
        return grpc.insecure_channel(address)
    own = pathlib.Path(tls, "client.pem").read_bytes()  # the private key and the certificate
    ca = pathlib.Path(tls, "ca.pem").read_bytes()
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, private_key=own, certificate_chain=own))


def main(address, prompt, tls=None):
    pb, pb_grpc = stubs()
    request = pb.GenerateRequest(
        request_id=str(uuid.uuid4()),  # the same id again joins the same generation
        prompt_text=prompt,
        sampling=pb.SamplingParams(temperature=0, max_tokens=64),
        stream_tokens=True,
    )
    request.context.kv_budget.budget = 32  # slots, prompt included
    request.context.kv_budget.window = 16
    with open_channel(address, tls) as channel:
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("prompt")
    parser.add_argument("--tls", metavar="FOLDER", help="with ca.pem and client.pem")
    options = parser.parse_args()
    main(options.address, options.prompt, options.tls)
