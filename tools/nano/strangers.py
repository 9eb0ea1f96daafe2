"""Prompts and conversations as strangers would type them: an extra probe beside the held-out families.

Written by hand. The generator cannot produce them, and no phrase was added for any of them: they say how far
the router carries beyond its generator.
"""

from .corpus import ROLES, STATE_ROLES, Example, Message
from .phrases import SLOTS


def strangers() -> list[Example]:
    """The probe list."""
    rows = [(slot, state, _single(text)) for slot, state, text in _SINGLE] + _CONVERSATIONS
    return [
        Example(messages, SLOTS.index(slot), ROLES.index(STATE_ROLES[state]), state, ())
        for slot, state, messages in rows
    ]


def _single(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _talk(*turns: tuple[str, str]) -> list[Message]:
    names = {"u": "user", "a": "assistant", "s": "system"}
    return [{"role": names[who], "content": text} for who, text in turns]


_SINGLE = [
    ("mathematics", "open", "how many minutes are there in 3.5 days"),
    ("mathematics", "open", "Simplify (a^2 - b^2) / (a - b) for me."),
    ("mathematics", "open", "Can you show that every odd square leaves remainder 1 when divided by 8?"),
    ("mathematics", "open", "A pool fills in 6 hours with one pipe and in 4 with another. Both together?"),
    ("code", "open", "npm install hangs forever on my laptop, what can I do?"),
    ("code", "open", "Give me a SwiftUI button that toggles dark mode."),
    ("code", "open", "segfault when i free the pointer twice, is that expected?"),
    ("code", "open", "What's the cleanest way to parse command line flags in Go?"),
    ("science", "open", "What makes popcorn pop?"),
    ("science", "open", "Do trees sleep at night?"),
    ("science", "open", "how does a microwave heat my soup but not the plate"),
    ("science", "open", "Explain to me what CRISPR does to a genome."),
    ("writing", "open", "I have to congratulate my aunt on her retirement, can you word it nicely?"),
    ("writing", "open", "Turn this into a catchy headline: local bakery gives away bread."),
    ("writing", "open", "Please improve the style of my cover letter's first paragraph."),
    ("writing", "open", "a short horror story set in a library"),
    ("planning", "open", "I want to run 10 km in two months, give me a weekly training schedule."),
    ("planning", "open", "Suggest a menu and a timeline for Christmas dinner with eight guests."),
    ("planning", "open", "how do i fit work, gym and language classes into one week?"),
    ("planning", "open", "Two free days in Hamburg with a toddler. What should we do when?"),
    ("facts", "open", "Which countries does the Rhine flow through?"),
    ("facts", "open", "when did queen elizabeth II die"),
    ("facts", "open", "Who plays the Joker in The Dark Knight?"),
    ("facts", "open", "What currency do they use in Thailand?"),
    ("data", "open", "I have a spreadsheet of expenses. Show spending per category as a pie chart."),
    ("data", "open", "city;rain\nOslo;80\nRome;30\nCairo;1\nSort by rain and return JSON."),
    ("data", "open", "Which SQL query finds customers that ordered twice in March?"),
    ("data", "open", "VLOOKUP returns #N/A although the value is in the column"),
    ("code", "plan_needed", "We need to replace our legacy billing system. How would you break that project down?"),
    ("planning", "plan_needed", "I inherited a farm and know nothing about farming. Where on earth do I begin?"),
    ("mathematics", "plan_needed", "Don't compute anything yet: what steps would lead to the volume of a torus?"),
    ("writing", "plan_needed", "I need to turn 400 pages of notes into a biography. Suggest an approach first."),
    ("science", "plan_needed", "How should one go about testing whether music makes tomatoes grow faster?"),
    ("mathematics", "check_asked", "Is it right that 7 * 8 = 54? That's what I wrote in the test."),
    ("facts", "check_asked", "My answer was that Mozart was born in Vienna. Can you check that?"),
    ("science", "check_asked", "Verify my claim: sound cannot travel through water."),
    ("code", "check_asked", "I think [1,2,3][-1] gives 1 in Python. Correct?"),
]
_CONVERSATIONS = [
    ("facts", "answered", _talk(("u", "Which planet is named after the god of war?"), ("a", "Mars, the Roman one."))),
    (
        "code",
        "answered",
        _talk(
            ("s", "Be brief."),
            ("u", "How do I read a JSON file in Node?"),
            ("a", "const data = JSON.parse(fs.readFileSync('file.json', 'utf8'))"),
        ),
    ),
    (
        "writing",
        "answered",
        _talk(
            ("u", "Write two lines about autumn leaves."),
            ("a", "Golden they drift on the evening air,\nletters from summer that nobody reads."),
        ),
    ),
    (
        "science",
        "planned",
        _talk(
            ("u", "Why did the dinosaurs die out? It is disputed, so structure it first."),
            ("a", "Weigh two hypotheses, impact and volcanism, against the dating evidence, then conclude."),
        ),
    ),
    (
        "mathematics",
        "planned",
        _talk(
            ("u", "How many trailing zeros does 100! have?"),
            (
                "a",
                "<suggestion>Count the factors of five, then those of twenty-five.</suggestion>"
                "<suggested_role>solver</suggested_role>",
            ),
        ),
    ),
    (
        "mathematics",
        "refuted_by_verifier",
        _talk(
            ("u", "What is 17 + 25?"),
            ("a", "Worker answer: 32"),
            ("a", "Verifier: REVISE: 7 plus 5 gives 12, so the tens are off by one."),
        ),
    ),
    (
        "data",
        "refuted_by_verifier",
        _talk(
            ("u", "item,price\npen,2\nbag,30\nWhat is the average price?"),
            ("a", "The average price is 32."),
            ("a", "REJECT\nThat is the sum. Divide it by the number of items."),
        ),
    ),
    (
        "facts",
        "refuted_by_user",
        _talk(
            ("u", "What is the capital of Brazil?"),
            ("a", "Rio de Janeiro."),
            ("u", "No, it has been Brasilia since 1960."),
        ),
    ),
    (
        "planning",
        "refuted_by_user",
        _talk(
            ("u", "Plan my Sunday with a swim, lunch at mum's and some reading."),
            ("a", "9:00 reading, 11:00 swim, 15:00 nap."),
            ("u", "You left out lunch at mum's."),
        ),
    ),
    (
        "code",
        "answered",
        _talk(
            ("u", "Sort a list of words by length in JavaScript"),
            ("a", "words.sort((a, b) => a.length - b.length)"),
            ("a", "REVISE: it changes the original array."),
            ("a", "[...words].sort((a, b) => a.length - b.length)"),
        ),
    ),
    (
        "facts",
        "check_asked",
        _talk(
            ("u", "Who built the first steam locomotive?"),
            ("a", "George Stephenson."),
            ("u", "hm, was it really him? can someone double check"),
        ),
    ),
]
