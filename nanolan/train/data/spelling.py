"""Generated spelling tasks: write a word letter by letter, and count a letter in a word.

A tokenizer hides the letters from a model; these tasks teach them. The words are a short list of our own and, for
variety, those that the data sets' own text uses. A word belongs to train or to test by its checksum, and the seeds
carry the name of the split: no test question can be one that was trained.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from string import ascii_lowercase

from nanolan.model.conversation import Conversation, conversation

TEST_SHARE = 10  # one word in this many is for tests
MAX_WORDS = 50_000
WORD = re.compile(r"(?<![\w'-])[a-z]{3,14}(?![\w'-])", re.ASCII)

WORDS = """
able about above across act add afternoon again against air almost along already although always among angle animal
answer apple april area army around arrive art ask aunt autumn away baby back bakery balance ball balloon banana bank
basket bath battle beach bean bear beautiful because become bedroom before begin behind believe bell below bench
beside better between beyond bicycle bird birthday bitter black blanket blood blossom blue board boat body book
bottle bottom bowl branch brave bread breakfast breath bridge bright bring broken brother brown brush bucket build
building bus business busy butter butterfly button cabbage cabin cake calendar call camera camp candle captain
careful carpet carrot carry castle catch cause celebrate center century certain chair chance change cheese cherry
chicken child children chocolate choose christmas church cinnamon circle city class clean clear clever climb clock
close clothes cloud coat coffee cold collect college colour comfort committee common company compare computer
consider contain continue cook copper corner correct cottage cotton count country courage cousin cover cream create
cross crowd cup curious curtain cushion customer daily dance dangerous daughter december decide deep deliver desert
different difficult dinner direction discover distance doctor dolphin dollar door double dragon dream dress drink
drive during early earth easy educate effect eight either elbow electric elephant eleven embarrass empty engine
enjoy enough evening every exactly example excellent exercise expect explain eye face family famous farm farmer
father feather february feel fellow fence festival field fifteen figure final finger finish fire fish flavour floor
flower follow food foot forest forget forgive forty forward four fresh friday friend front frozen fruit full funny
furniture future garden garlic gather general gentle giraffe give glass glove goal gold goodbye government
grandmother grass great green ground group grow guess guitar hair half hammer hand happen happy harbour hard hat
hear heart heavy height hello help hidden high hill history hold holiday honest honey hope horse hospital hour house
however hundred hungry hurry ice idea image important include indeed insect inside instead interest island jacket
january jewel join journey juice july jump june jungle keep kettle key kind king kitchen kitten knee knife know
ladder lady lake language large last late laugh leader leaf learn leather leave left lemon length lesson letter
library light listen little lizard local lonely long lose loud love lucky lunch machine magic make many map march
market marriage material matter may meadow measure medicine meet member memory mercury message metal middle might
milk million minute mirror miss mississippi modern moment monday money monkey month moon morning mosquito mother
mountain mouse mouth move much muscle museum mushroom music name narrow nation nature near necessary neck needle
neighbour neither nest never new next nice night nine noise noodle north nose nothing notice november number nurse
object occur ocean october offer office often oil old onion only open opposite orange orchard order other outside
oven over owner page paint pancake paper parallel parent park parrot part party pass path peace peach pencil penguin
people pepper perfect perhaps period person piano picnic picture piece pillow pineapple place plain plan planet
plant plate play please pocket poem point police polite pool poor possess possible potato power practice prepare
present pretty price prince print private problem promise proud pull pumpkin puppy purple push puzzle quarter queen
question quick quiet rabbit radio rain rainbow raspberry rather reach ready real reason receive recipe recommend red
remember repeat reply rest result return rhythm ribbon rice rich ride right ring river road robot rock roof room
root rose rough round row rubber rule run sad safe sail salad salt same sand sandwich saturday sauce save say school
science scissors sea season second secret see seed sell send separate september seven several shadow shake shape
share sharp sheep shelf shell ship shirt shoe shop short shoulder shout show sick side silver simple since sing
sister six size skill skin sky sleep slow small smell smile smoke smooth snow soap soccer soft soldier some song
soon sound soup south space speak special spell spend spider spinach spoon spring square squirrel stairs stamp stand
star start station stay steel step still stone stop store storm story strange strawberry stream street strong
student success sudden sugar suitcase summer sun sunday sunflower supper surprise swallow sweet swim table tail take
talk tall taste tea teacher team tell tennessee tennis tent terrible test thank theatre their there thick thing
think third thirteen thousand three throat through throw thunder thursday ticket tiger time tiny tired today toe
together tomato tomorrow tongue too tooth top total touch towel tower town toy traffic train travel treasure tree
triangle trip trouble true trumpet trust try tuesday tunnel turkey turn twelve twenty twice umbrella uncle under
understand uniform until upon useful usually vacation vacuum valley vegetable very village violin visit voice wait
walk wall want warm wash waste watch water wave weak wear weather wednesday week weight welcome well west wheel when
where whisper white whole why wide wild win wind window winter wise wish with without wolf woman wonder wood wool
word work world worry write wrong yard year yellow yesterday yet young zebra zero zipper
""".split()  # noqa: SIM905

SPELL = (
    "Spell the word: {}",
    "How do you spell {}?",
    "Please spell '{}'.",
    "Write {} letter by letter.",
    "What are the letters of the word {}?",
    'Spell "{}" for me',
)
COUNT = (
    "How many {0} are in {1}?",
    "How many {0}s are in {1}?",
    "How many times does {0} occur in {1}?",
    "How many times does the letter {0} appear in the word {1}?",
    "Count the letter {0} in {1}.",
    "Count the {0}s in the word {1}",
    "What is the number of {0} in {1}?",
    "How often is there a {0} in {1}?",
    "In the word {1}, how many letters are {0}?",
    "Please tell me how many {0} the word {1} has.",
    "Does {1} have any {0}, and how many?",
    "Find out how many times {0} is used when you write {1}.",
)
QUOTES = ("{}", "{}", "'{}'", '"{}"')


def is_test(word: str) -> bool:
    """Whether a word is for tests only."""
    return zlib.crc32(word.encode()) % TEST_SHARE == 0


def words_of(texts: Iterable[str]) -> tuple[str, ...]:
    """The built-in words, then those that the texts use at least twice, most frequent first; MAX_WORDS at most."""
    counts = Counter(word for text in texts for word in WORD.findall(text))
    found = sorted(
        (word for word, n in counts.items() if n > 1), key=lambda word: (-counts[word], word)
    )
    return tuple(dict.fromkeys([*WORDS, *found]))[:MAX_WORDS]


def of_split(words: Sequence[str], split: str) -> list[str]:
    """The words that belong to `split`, train or test."""
    return [word for word in words if is_test(word) == (split == "test")]


def spell(number: int, split: str, words: Sequence[str]) -> Conversation:
    """Row `number` of spelling; `words` are of_split(..., split)."""
    rng = Random(f"spell {split} {number}")
    word = rng.choice(words)
    return conversation(rng.choice(SPELL).format(word), f"{word}: {' '.join(word)}")


def count_letters(number: int, split: str, words: Sequence[str]) -> Conversation:
    """Row `number` of counting a letter: spelled out with a running count, checked with Python; "#### n" at the end."""
    rng = Random(f"count {split} {number}")
    word = rng.choice(words)
    letter = rng.choice(word if rng.random() < 0.9 else ascii_lowercase)
    question = rng.choice(COUNT).format(
        *(rng.choice(QUOTES).format(text) for text in (letter, word))
    )
    running, n = (
        " ".join(f"{c}:{word[: i + 1].count(letter)}" for i, c in enumerate(word)),
        word.count(letter),
    )
    return conversation(
        question.lower() if rng.random() < 0.25 else question,
        [
            {
                "type": "text",
                "text": f"{word}: {' '.join(word)}\nCounting {letter}: {running}\nChecking: ",
            },
            {"type": "python", "text": f"'{word}'.count('{letter}')"},
            {"type": "python_output", "text": str(n)},
            {
                "type": "text",
                "text": f"\nThe letter {letter} is in {word} {n} time{'s' * (n != 1)}.\n\n#### {n}",
            },
        ],
    )
