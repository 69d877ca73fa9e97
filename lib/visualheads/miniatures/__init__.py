"""Small models of the paper's architectures, their world of glyphs, and their training.

world.py          scenes of pictograms, rendered and distorted
language.py       the closed vocabulary and its tokenizer
listings.py       lists in words, pictures, and what is known of each
questions.py      what is asked of a list, and what a question gives away
dialogues.py      exchanges as supervised token ids, and batches of them
scenes.py         the shipped scenes in LookTwice-QA's format
benchmarks.py     … in the formats of POPE, MMBench, SEED-Bench and Q-Bench
architectures.py  shapes and lineage, built as transformers models
fitting.py        one seeded, resumable training loop
tower.py          the vision tower
training.py       language model, alignment, visual tuning: schedules and what they ask
train.py          a miniature through all stages, and its traced moments
evaluation.py     scores with intervals and controls, against what is asked for
card.py           the model card
text_heads.py     heads of a text-only model on lists in words
"""
