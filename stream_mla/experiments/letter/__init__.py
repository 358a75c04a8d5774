"""Figures 2 to 6 of Geens & Verhelst, "Hardware-Centric Analysis of DeepSeek's Multi-Head Latent Attention".

arXiv 2506.02523v1, called "the letter" here. Each figure is a function that returns rows; `reproduce` writes them with
pictures and a summary that says how far every curve is from the published one.
"""
