"""TRL's GRPO trainer takes real steps with our reward function, on the CPU."""

import asyncio

import pytest

from spri_dspy.errors import UsageError
from spri_dspy.integrations.trl import rubric_reward
from spri_dspy.lms.replay import replay_lm
from tests.integrations.test_rubric_scoring import RUBRIC, Recording


def test_a_batch_is_judged_at_once_and_in_order():
    import time

    reward = rubric_reward(RUBRIC, judge="offline?latency=0.3")
    start = time.monotonic()
    found = asyncio.run(reward(["Name a bird."] * 8, ["The bittern."] * 8))
    assert time.monotonic() - start < 1.5  # one after another would take 2.4 seconds
    assert len(found) == 8 and all(0 <= each <= 1 for each in found)


def test_conversations_columns_and_missing_scores():
    reward = rubric_reward(RUBRIC, judge=replay_lm(Recording(score=5)), instruction="question")
    prompts = [[{"role": "system", "content": "Be short."}, {"role": "user", "content": "Name a bird."}]] * 2
    completions = [[{"role": "assistant", "content": "A jay."}], [{"role": "assistant", "content": ""}]]
    extra, metrics = {}, {}
    found = asyncio.run(
        reward(
            prompts,
            completions,
            question=["a", "b"],
            log_extra=extra.__setitem__,
            log_metric=metrics.__setitem__,
        )
    )
    assert found == [1.0, None]
    assert metrics == {"rubric_reward_coverage": 0.5}
    assert extra["rubric_reward_feedback"] == ["quiet enough", "the answer is empty"]
    with pytest.raises(UsageError, match="no column 'question'"):
        asyncio.run(reward(prompts, completions))


def test_the_users_turns_are_the_instruction():
    said = Recording()
    reward = rubric_reward(RUBRIC, judge=replay_lm(said))
    asyncio.run(
        reward([[{"role": "user", "content": "Name a bird."}]], [[{"content": [{"text": "A jay."}]}]])
    )
    assert "Name a bird." in said.prompts[0] and "A jay." in said.prompts[0]


@pytest.fixture
def tiny():
    """A random model of two layers and a tokenizer of characters, made here."""
    pytest.importorskip("trl", reason="needs spri-dspy[trl]; make test-integrations has it")
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = ["<pad>", "<eos>", *" abcdefghijklmnopqrstuvwxyzABN."]
    made = Tokenizer(models.WordLevel({letter: n for n, letter in enumerate(letters)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(letters), pad_token_id=0, eos_token_id=1, bos_token_id=None, **sizes)
    return LlamaForCausalLM(config), tokenizer


def test_grpo_trains_with_rewards_some_of_which_are_missing(tiny, tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = tiny
    seen = []

    class Watched(Recording):
        """Judges by length; every fourth judgement has no readable score."""

        def answer(self, request):
            self.score = None if len(self.stages) % 4 == 3 else 1 + len(request.messages[-1].text) % 5
            return super().answer(request)

    reward = rubric_reward(RUBRIC, judge=replay_lm(Watched()))

    async def watched(**batch):
        found = await reward(**batch)
        seen.append(found)
        return found

    watched.__name__ = "rubric_reward"
    settings = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "max_steps": 2,
    }
    settings |= {"logging_steps": 1, "save_strategy": "no"}
    arguments = GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        **settings,
    )
    rows = Dataset.from_list([{"prompt": "Name a bird."}, {"prompt": "Name a bee."}] * 4)
    trainer = GRPOTrainer(model, watched, args=arguments, train_dataset=rows, processing_class=tokenizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.train()
    logged = [row for row in trainer.state.log_history if "reward" in row]
    assert len(logged) == 2
    assert any(None in batch for batch in seen) and all(len(batch) == 8 for batch in seen)
    for row, batch in zip(logged, seen, strict=False):
        known = [each for each in batch if each is not None]
        assert row["rewards/rubric_reward/mean"] == pytest.approx(sum(known) / len(known), abs=1e-4)
        assert row["rubric_reward_coverage"] == pytest.approx(len(known) / len(batch))
    assert any((p - before[name]).abs().max() > 0 for name, p in trainer.model.named_parameters())
