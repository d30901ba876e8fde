"""What each command does, in one shape: request -> plan -> forecast -> execute.

    plan = run.plan(run.RunRequest(task="reappraisal", lms={"base": "openai/gpt-4o-mini"}))   # all is checked
    plan.forecast().lines()                                            # what it would take
    with plan.open("runs/mine") as directory:                          # made, or resumed; keys are looked for here
        plan.execute(directory, Execution(concurrency=32))

`run`, `judge` and `tune` have a request and a plan each; `manifest`, `forecast` and `execution` are what they share.
"""
