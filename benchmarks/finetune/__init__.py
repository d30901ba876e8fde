"""Tune a small model on exported responses (LoRA), and measure what it learned and what it forgot.

    models     load a base: Hugging Face, GGUF, or a tiny random one
    rows       what is trained on: exports and runs, the leak guard, what the writer left unfinished
    training   a LoRA adapter by trl's SFTTrainer or DPOTrainer, resumable
    choices    TruthfulQA MC1 and MC2 by log-likelihood, resumable
    held       what must not fall: loss on held-out responses, and an lm-eval task made of local files

torch, transformers, trl, peft and lm-eval are imported where they are used: `pip install "spri-dspy[sft,eval]"`.
"""
