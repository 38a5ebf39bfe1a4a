"""What graphs are made of: ops with their epilogues, the verifier, and NumPy's word on what each op computes."""
