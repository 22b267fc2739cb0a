"""CMU-MOSI: sentiment of 2,199 utterances from 93 videos, as sequences of words, sounds and faces."""

from __future__ import annotations

from pathlib import Path

from subsense.data.base import Data, Description
from subsense.data.formats.sentiment import load_sentiment

FILES = {
    ("mult", True): "mosi_data.pkl",
    ("mult", False): "mosi_data_noalign.pkl",
    ("mmsa", True): "aligned_50.pkl",
    ("mmsa", False): "unaligned_50.pkl",
}
DESCRIPTION = Description(
    name="mosi",
    modalities={"text": "50 300", "audio": "375 5", "vision": "500 20"},
    task="regression",
    metric="acc-2",
    source="https://github.com/yaohungt/Multimodal-Transformer (release mult), https://github.com/thuiar/MMSA "
    "(release mmsa), https://github.com/A2Zadeh/CMU-MultimodalSDK (the data themselves)",
    licence="CMU-MOSI has research terms of its own",
    citation="A. Zadeh, R. Zellers, E. Pincus, L.-P. Morency, Multimodal sentiment intensity analysis in videos, "
    "IEEE Intelligent Systems 31(6), 2016; features: Y.-H. H. Tsai et al., ACL 2019 "
    "(arXiv 1906.00295), or H. Mao et al., M-SENA, ACL 2022 (arXiv 2203.12441)",
    folder="mosi",
)


def mosi(
    root: str | Path | None = None, *, release: str = "mult", aligned: bool = False, not_finite: str = "zero"
) -> Data:
    """Load one file of `root/mosi/`: text, audio and vision of each utterance, and its sentiment, -3 to 3.

    Layout, with the published names; the one file that is asked for is enough::

        mosi/
          mosi_data_noalign.pkl   release mult, each modality with a time of its own
          mosi_data.pkl           release mult, aligned to the words
          unaligned_50.pkl        release mmsa (MOSI/Processed there)
          aligned_50.pkl          release mmsa

    They are pickles, dicts of train, valid, test -> text, audio, vision (utterance, time, feature), labels or
    regression_labels, id; read without running anything that stands in them. All of a file has to fit into memory.

    Text is word vectors: GloVe, 300 numbers (mult), or BERT's, 768 (mmsa). Features are as released: not standardised,
    padded with zeros. Minus infinity in audio becomes 0, as in both releases' own loaders; so does whatever else
    float32 can't hold as a finite number in audio or vision, of either sign: `notes` says how many, and where. Targets
    are float32 (1,).

    Args:
        root: the folder that holds `mosi/`.
        release: ``"mult"`` or ``"mmsa"``.
        aligned: whether to read the file in which audio and vision are aligned to the words.
        not_finite: ``"zero"`` puts 0 where audio or vision is infinite, not a number, or beyond float32, and says where
            in the data's `notes`; ``"refuse"`` raises at the first such value. Text is always refused.

    Raises:
        DataError: the file is absent, damaged, or holds something else.
    """
    return load_sentiment(DESCRIPTION, root, FILES, release, aligned, not_finite)
