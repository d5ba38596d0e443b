#!/usr/bin/env python3
"""llama.cpp as a participant (turns.py): one llama_decode per step, one sequence id per stream.

Usage: llama_peer.py MODEL_FOLDER THREADS MAX_STREAMS MAX_CONTEXT
"""
import ctypes
import pathlib
import sys
import time

import llama_cpp
import numpy as np

import turns

ROWS = 512  # of one llama_decode, its default


class Llama:
    """`streams` sequences of at most `context` tokens, each with a KV cache of its own."""

    def __init__(self, path, threads, streams, context):
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = streams * context
        params.n_batch = params.n_ubatch = ROWS
        params.n_seq_max = streams
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot make a context of {params.n_ctx} tokens")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(ROWS, 0, 1)
        self.greedy = llama_cpp.llama_sampler_init_greedy()

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def pass_rows(self, rows):
        """One forward pass of rows (token, position, stream, logits wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, stream, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, stream
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise SystemExit(f"llama_decode failed on {len(rows)} rows")
        llama_cpp.llama_synchronize(self.context)

    def read_prompts(self, prompts):
        """All prompts, in passes of ROWS rows; the likeliest token after each."""
        self.clear()
        rows = [(token, i, stream, i + 1 == len(prompt))
                for stream, prompt in enumerate(prompts) for i, token in enumerate(prompt)]
        first = []
        for begin in range(0, len(rows), ROWS):
            part = rows[begin:begin + ROWS]
            self.pass_rows(part)
            first += [self.likeliest(i) for i, row in enumerate(part) if row[3]]
        return first

    def likeliest(self, row):
        return llama_cpp.llama_sampler_sample(self.greedy, self.context, row)

    def logits(self, row):
        pointer = llama_cpp.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self.vocab,))


def main():
    folder, threads, streams, context = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:5])
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p())
    llama = Llama(folder / "model.gguf", threads, streams, context)

    def prompts_of(job):
        return [turns.prompt_of(job["turn"], s, job["context"], llama.vocab) for s in range(job["streams"])]

    def prefill(job):
        prompts = prompts_of(job)
        begin = time.perf_counter()
        llama.read_prompts(prompts)
        return {"seconds": time.perf_counter() - begin}

    def decode(job):
        tokens = llama.read_prompts(prompts_of(job))
        begin = time.perf_counter()
        for step in range(job["steps"]):
            llama.pass_rows([(token, job["context"] + step, s, True) for s, token in enumerate(tokens)])
            tokens = [llama.likeliest(s) for s in range(len(tokens))]
        return {"seconds": (time.perf_counter() - begin) / job["steps"]}

    def weigh(job):
        """Log-probabilities of wanted[i] after position first + i, and the likeliest there."""
        llama.clear()
        llama.pass_rows([(token, i, 0, i >= job["first"]) for i, token in enumerate(job["ids"])])
        logprobs, likeliest = [], []
        for i, wanted in enumerate(job["wanted"]):
            row = llama.logits(job["first"] + i).astype(np.float64)
            normaliser = row.max() + np.log(np.exp(row - row.max()).sum())
            logprobs.append([float(row[id] - normaliser) for id in wanted])
            likeliest.append(int(row.argmax()))
        return {"logprobs": logprobs, "likeliest": likeliest}

    turns.serve({"prefill": prefill, "decode": decode, "weigh": weigh})


if __name__ == "__main__":
    main()
