#!/usr/bin/env python3
"""A training step of transformers and torch as a participant (turns.py); train_bench takes the same jobs.

Usage: train_peer.py MODEL_FOLDER THREADS float32|bfloat16. Weights and moments are fp32; bfloat16 is autocast.
"""
import ctypes
import sys
import time

import torch
import transformers

import turns

FIRST_RESPONSE = 1000  # streams below are prompts
CLIP_NORM = 1.0
LIBC = ctypes.CDLL("libc.so.6")


def batch_of(job, vocab):
    """ids, mask of real tokens, advantages: sequences with their prompts, padded on the right."""
    longest = job["prompt"] + max(job["responses"])
    count = job["prompts"] * len(job["responses"])
    ids = torch.zeros(count, longest, dtype=torch.long)
    real = torch.zeros(count, longest, dtype=torch.long)
    for i in range(count):
        prompt, response = divmod(i, len(job["responses"]))
        tokens = (turns.prompt_of(job["turn"], prompt, job["prompt"], vocab) +
                  turns.prompt_of(job["turn"], FIRST_RESPONSE + i, job["responses"][response], vocab))
        ids[i, :len(tokens)] = torch.tensor(tokens)
        real[i, :len(tokens)] = 1
    advantages = torch.tensor([1.0 if i % 2 == 0 else -0.5 for i in range(count)])
    return ids, real, advantages


def memory(field):
    for line in open("/proc/self/status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}")


def optimizer_of(model):
    """AdamW as the trainer's defaults have it: decay of matrices alone."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
                             betas=(0.9, 0.95), eps=1e-8, fused=True)


def main():
    folder, threads, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    model.config.use_cache = False
    optimizer = optimizer_of(model)

    def loss_of(ids, real, advantages, prompt):
        """Mean of -A log p over the responses' tokens; logits of the rows that predict them alone."""
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(ids, attention_mask=real, logits_to_keep=ids.shape[1] - prompt + 1).logits
        targets, learnt = ids[:, prompt:], real[:, prompt:]
        logprobs = logits[:, :-1].float().log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
        return -(logprobs * learnt * advantages[:, None]).sum() / learnt.sum()

    def step(job):
        ids, real, advantages = batch_of(job, model.config.vocab_size)
        for group in optimizer.param_groups:
            group["lr"] = job["learning_rate"]
        LIBC.malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        before = memory("VmHWM")
        processor, marks = time.process_time(), [time.perf_counter()]
        loss = loss_of(ids, real, advantages, job["prompt"])
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        return {"seconds": marks[3] - marks[0], "processor": time.process_time() - processor,
                "forward": marks[1] - marks[0], "backward": marks[2] - marks[1], "optimizer": marks[3] - marks[2],
                "loss": loss.item(), "grad_norm": norm.item(), "rows": ids.numel(), "bytes_before": before,
                "peak_bytes": memory("VmHWM")}

    turns.serve({"step": step})


if __name__ == "__main__":
    main()
