"""Beside Stream 2.1.1: the same attention blocks on the same machines, through both tools."""
