#!/usr/bin/env python3
"""transformers' generate as a participant (turns.py), and oneDNN's bf16 products, which bound what anybody can reach.

Usage: transformers_peer.py MODEL_FOLDER THREADS
"""
import sys
import time

import torch
import transformers

import turns


class Clock(transformers.StoppingCriteria):
    """Notes when each token is there; stops nothing."""

    def __init__(self):
        self.times = []

    def __call__(self, input_ids, scores, **kwargs):
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    vocab = model.config.vocab_size

    def generate(job, tokens):
        """Seconds until the first token, and per token after it."""
        prompts = torch.tensor(
            [turns.prompt_of(job["turn"], s, job["context"], vocab) for s in range(job["streams"])])
        clock = Clock()
        begin = time.perf_counter()
        model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, min_new_tokens=tokens,
                       max_new_tokens=tokens, eos_token_id=None, pad_token_id=0,
                       stopping_criteria=transformers.StoppingCriteriaList([clock]))
        return clock.times[0] - begin, (clock.times[-1] - clock.times[0]) / max(1, tokens - 1)

    def weigh(job):
        """Log-probabilities of wanted[i] after position first + i, and the likeliest there."""
        logits = model(torch.tensor([job["ids"]])).logits[0, job["first"]:].double()
        logprobs = logits.log_softmax(-1)
        return {"logprobs": [logprobs[i, wanted].tolist() for i, wanted in enumerate(job["wanted"])],
                "likeliest": logits[:len(job["wanted"])].argmax(-1).tolist()}

    def products(job):
        """Seconds of x w', x [rows, inputs], w [outputs, inputs], bf16; the best of `times`, packed weights in cache."""
        x = torch.randn(job["rows"], job["inputs"], dtype=torch.bfloat16)
        w = torch.randn(job["outputs"], job["inputs"], dtype=torch.bfloat16)
        seconds = []
        for _ in range(job["times"]):
            begin = time.perf_counter()
            torch.nn.functional.linear(x, w)
            seconds.append(time.perf_counter() - begin)
        return {"seconds": min(seconds)}

    turns.serve({"prefill": lambda job: {"seconds": generate(job, 1)[0]},
                 "decode": lambda job: {"seconds": generate(job, job["steps"] + 1)[1]},
                 "weigh": weigh, "products": products})


if __name__ == "__main__":
    main()
