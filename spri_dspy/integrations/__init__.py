"""SPRI inside other people's tools, one file a tool; each tool is an extra and imported where its file is used.

    inspect_ai   solver and scorer                         pip install "spri-dspy[inspect]"
    trl          reward functions for GRPO and its kin     pip install "spri-dspy[trl]"
    verifiers    rewards of a task                         pip install "spri-dspy[verifiers]"
    deepeval     a metric                                  needs deepeval beside spri-dspy, see there
    promptfoo    provider and assertion (a Node tool)      npm install promptfoo
    mlflow       `spri run | judge | tune --track mlflow`  pip install "spri-dspy[track]"

What scores answers is the same in all of them: `rubric_scoring.RubricScorer`, a rubric for each instruction and an LM
judge that scores by it. A score that cannot be had is missing in each tool's own way, and never a 0.
"""
