"""What several drafting techniques share: drafters, trained heads, trees. It knows the engine, and no technique.

Techniques do not import one another, so what two of them need stands here.
"""
