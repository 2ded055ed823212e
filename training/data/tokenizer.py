"""The tokenizer of text models: pieces of words, learned from the training texts.

tokenizer = train_tokenizer(parts.fit.inputs, 8192)
tokenizer.encode("The goalie's mask!").tokens      # ['▁the', '▁goalie', '▁s', '▁mask']
tokenizer.save("tokenizer.json")
"""

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFD, Lowercase, Replace, Sequence, Strip, StripAccents
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.trainers import BpeTrainer

PAD_TOKEN = "[PAD]"
UNKNOWN_TOKEN = "[UNK]"


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, pad_token: str = PAD_TOKEN) -> Tokenizer:
    """Learn byte-pair encoding (Sennrich et al. 2016) of words; id 0 is `pad_token`, id 1 is [UNK].

    Texts are normalized to lower-case letters and single spaces, the form of the 20 Newsgroups files, so that a raw
    text and a file's text come out alike. A word starts with the mark U+2581; hence a piece at the start of a word
    differs from the same letters inside one. No piece carries a continuation prefix, because the trainer would number
    those in the order of a randomly seeded hash table; this way the same texts give the same bytes in every process.
    """
    tokenizer = Tokenizer(BPE(unk_token=UNKNOWN_TOKEN, fuse_unk=True))
    tokenizer.normalizer = Sequence([NFD(), StripAccents(), Lowercase(), Replace(Regex(r"[^\p{L}]+"), " "), Strip()])
    tokenizer.pre_tokenizer = Metaspace(prepend_scheme="always")
    trainer = BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, show_progress=False, special_tokens=[pad_token, UNKNOWN_TOKEN]
    )
    tokenizer.train_from_iterator(texts, trainer)
    # As added tokens the two would be recognised in a text that spells them out, such as "[PAD]"; as mere vocabulary
    # entries they cannot be typed.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
