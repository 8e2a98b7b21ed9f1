"""The ablation: hardened, naive and hardened minus each fix, against each fault alone.

Theory says beforehand what each removed fix must break; the cells are measured, and a disagreement in
either direction is a failure: of the pipeline, of the proving ground, or of the theory.
"""
