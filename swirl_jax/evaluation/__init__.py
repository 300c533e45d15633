"""How good a world model is: one step, several turns, and what the latent actions look like.

All of it runs on whole splits in batches of one static shape (the last one padded, its padding
masked), in a few compiled programs per role, and returns plain dicts of floats, ints and lists.

    one_step.Examples(records, data)             a split: its records and, tokenised, [N, ·] arrays
    one_step.examples(records, tokenizer, lengths, *, actions=True) -> Examples
    one_step.head(split, count) -> Examples      its first records

    one_step.quick(role, params, split, *, batch, world) -> float      for early stopping
    one_step.fwm(role, params, split, *, key, temperature, batch, world)
      -> {"metrics", "by_episode", "by_example",
          "examples": {"prediction": [text], "exact": [bool]}}
    one_step.idm(role, params, split, *, key, temperature, batch, world)
      -> {"metrics", "by_episode", "by_example",
          "examples": {"prediction": [text], "match": [bool]}}
    one_step.best_of(fwm_role, fwm_params, idm_role, idm_params, split, *, n, key, temperature,
                     batch, world) -> {"metrics", "by_episode", "by_example", "picked"}
    one_step.latents(role, params, split, *, key, temperature, batch, world, shown, reference=())
      -> {"metrics", "by_example", "examples": [{"x", "y", "z", "true": text | None}]}
    one_step.gallery(split, predictions, rows, *, method, split_name)
      -> [{"x", "z", "prediction", "truth", "method", "split"}]
    multi_turn.multi_turn(role, params, split, chains, *, batch, world, shown)
      -> {"metrics", "by_chain", "chains": [[{"x", "z", "prediction", "truth"}]]}

What a trained run is scored by, every score {"value", "low", "high"} with its 95% interval over
episodes (`text.estimate`):

    scorecard.measure(fwm, idm, warm_idm, split, *, turns, best_of, batch, world, key, done,
                      bert_score="", measures=(), asked=None) -> dict
    overlap.scores(predictions, references, episodes) -> {"bleu", "chrf", "rouge_l", ...}
    alignment.edits(x, y, predictions) -> Edits         new, kept and gone words, where texts shift
    likelihood.discedit(role, params, split, truth, *, batch) -> {kind: {"count", "mean", "sum"}}
    likelihood.naturalness(role, params, reference, split, *, key, temperature, batch) -> dict
    candidates.read(path) -> [Question]; candidates.ask(questions, tokenizer, lengths) -> Asked
    candidates.measure(asked, fwm, idm, *, batch) -> {kind: {"all", "by_task"}}
    python -m swirl_jax.evaluation --workdir=... --split=test               docs/evaluation.md

and in a world of images:

    pictures.psnr(a, b), pictures.ssim(a, b)         float32 [N, H, W, 3] in [0, 1] → [N], pure
    pictures.PIXELS, lpips.measure(folder), clip.measure(folder, captions=None) -> Measure
    picture_scores.compare(world, measures, records, x, {who: texts}) -> {who: {score: [N]}}
    picture_scores.measure(world, measures, records, forward, picked, chains, rolled) -> dict
    picture_page.cases(block, records, predictions, world) -> HTML

and below them, for other uses (annotating pairs once, say), on tokenised data alone:

    one_step.decode(role, params, data, *, group, greedy, batch, key=None, temperature=1.0)
      -> Decoded(tokens, mask [N, G, T], logp, complete [N, G]), NumPy
    one_step.score(role, params, data, *, batch) -> Scores(logp, count [N]), NumPy

`role` is any transformer role of the right direction: its decoding's group and greediness are
replaced as each measurement needs; top-k, top-p, guidance, length and allowed tokens stay. `key` is
a typed key, `temperature` that of the sampled measurements. "metrics" goes into a row of
`evaluations.jsonl`; "by_episode" too, where two methods are to be compared pair by pair;
"by_example" holds lists [N] that the shares are made of. A mesh must be set (`jax.set_mesh`).
"""
