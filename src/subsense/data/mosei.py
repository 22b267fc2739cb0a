"""CMU-MOSEI: sentiment of 22,856 utterances, as sequences of words, sounds and faces."""

from __future__ import annotations

from pathlib import Path

from subsense.data.base import Data, Description
from subsense.data.formats.sentiment import load_sentiment

FILES = {
    ("mult", True): "mosei_senti_data.pkl",
    ("mult", False): "mosei_senti_data_noalign.pkl",
    ("mmsa", True): "aligned_50.pkl",
    ("mmsa", False): "unaligned_50.pkl",
}
DESCRIPTION = Description(
    name="mosei",
    modalities={"text": "50 300", "audio": "500 74", "vision": "375 35"},
    task="regression",
    metric="acc-2",
    source="https://github.com/yaohungt/Multimodal-Transformer (release mult), https://github.com/thuiar/MMSA "
    "(release mmsa), https://github.com/A2Zadeh/CMU-MultimodalSDK (the data themselves)",
    licence="CMU-MOSEI has research terms of its own",
    citation="A. Zadeh, P. P. Liang, S. Poria, E. Cambria, L.-P. Morency, Multimodal language analysis in the wild: "
    "CMU-MOSEI dataset and interpretable dynamic fusion graph, ACL 2018; features: Y.-H. H. Tsai et al., ACL 2019 "
    "(arXiv 1906.00295), or H. Mao et al., M-SENA, ACL 2022 (arXiv 2203.12441)",
    folder="mosei",
)


def mosei(
    root: str | Path | None = None, *, release: str = "mult", aligned: bool = False, not_finite: str = "zero"
) -> Data:
    """Load one file of `root/mosei/`: text, audio and vision of each utterance, and its sentiment, -3 to 3.

    Layout, with the published names; the one file that is asked for is enough::

        mosei/
          mosei_senti_data_noalign.pkl   release mult, each modality with a time of its own; several GB
          mosei_senti_data.pkl           release mult, aligned to the words
          unaligned_50.pkl               release mmsa (MOSEI/Processed there)
          aligned_50.pkl                 release mmsa

    What a file holds, and what is done to it, is as for `mosi`: see `subsense ls data mosi`.

    Args:
        root: the folder that holds `mosei/`.
        release: ``"mult"`` or ``"mmsa"``.
        aligned: whether to read the file in which audio and vision are aligned to the words.
        not_finite: ``"zero"`` puts 0 where audio or vision is infinite, not a number, or beyond float32, and says where
            in the data's `notes`; ``"refuse"`` raises at the first such value. Text is always refused.

    Raises:
        DataError: the file is absent, damaged, or holds something else.
    """
    return load_sentiment(DESCRIPTION, root, FILES, release, aligned, not_finite)
