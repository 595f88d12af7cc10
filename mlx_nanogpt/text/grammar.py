"""The grammar of the play `pastiche`, data for `pastiche.py`.

A rule is a tuple of alternatives, likeliest first, and an alternative is a template in which
    {rule}        is replaced by one alternative of that rule, drawn by rank,
    {name=rule}   does the same for a rule of plain words, and keeps the words under that name,
    {name}        repeats the words that were kept last: a person on stage, the thing they quarrel over, the weather,
    /             is a line break, for example in a quoted verse.

Three conditions make it possible to read the choices back from the text; a test does so. No alternative is empty.
No two alternatives of a rule begin with the same token: a whole word (letters, digits, $, & and ') or a single mark. No
two words touch, so the end of a token is certain. Therefore the first token that a choice writes identifies the choice.
"""

import re
from collections.abc import Mapping, Sequence


def _words(block: str) -> tuple[str, ...]:
    return tuple(block.split())


def _phrases(block: str) -> tuple[str, ...]:
    return tuple(phrase.strip().replace("/", "\n") for phrase in re.split(r"[|\n]", block.strip()))


GRAMMAR: Mapping[str, Sequence[str]] = {
    # ---- the play: scenes without end; each names its people and its quarrel, then lets them talk
    "play": ("{scene}{play}",),
    "scene": _phrases("Chorus:/{curtain}/{quarrel}/{company}//{anyone}"),
    "curtain": _phrases("""
        Behold a {adj} {place=places}, and {weather=weathers} without.
        Some years go by. A {place=places}. More {weather=weathers}.
        Imagine {weather=weathers}; and, behind it, a {place=places}.
        Now shift we to a {adj} {place=places}, in {weather=weathers}.
        This plank is now a {place=places}. Forgive the {weather=weathers}.
        We had no coin for {weather=weathers}. Pretend. A {place=places}.
        Night, {weather=weathers}, and a {adj} {place=places} in Padding-on-Wold.
        Kind friends, the cart that held our {place=places}/Was lost in {weather=weathers}. Pray look at this {noun}."""),
    "quarrel": _phrases("""
        Enter {lord=lords}, holding a {adj} {prize=thing};/Then {rival=rivals}, who says the {prize} is his.
        Here {lord=lords} and {rival=rivals} are sworn to die/About a {adj} {prize=thing}. Both sides have drums.
        Long since did {rival=rivals} sell {lord=lords}/A {adj} {prize=thing} for $3. It leaks.
        Once {lord=lords} lent {rival=rivals} a {adj} {prize=thing};/They have not slept since, nor changed their hose.
        Two gentlemen, {lord=lords} and {rival=rivals},/Both woo the same {prize=thing}, which is {adj}.
        A {adj} {prize=thing} is left to {lord=lords},/And {rival=rivals} hath come about the will."""),
    "company": _phrases("""
        With them is {lady=ladies}, whose {kin=kinsfolk} is dead,/And {clown=clowns}, whose hat is {adj}.
        See {lady=ladies}, who mourns a {adj} {kin=kinsfolk};/And {clown=clowns}, who hath eaten {np}.
        Comes {lady=ladies}, late haunted by her {kin=kinsfolk},/And {clown=clowns}, a fool, with {np}.
        Last, {lady=ladies}, who poisoned once a {kin=kinsfolk};/And {clown=clowns}, who is paid in {mass}."""),
    # ---- who speaks next: anyone but the last speaker, now and then a stranger, at last the prompter
    "anyone": _phrases("{lord_speaks} | {rival_speaks} | {lady_speaks} | {clown_speaks}"),
    "after_lord": _phrases("{rival_speaks} | {lady_speaks} | {clown_speaks} | {interruption}"),
    "after_rival": _phrases("{lord_speaks} | {clown_speaks} | {lady_speaks} | {interruption}"),
    "after_lady": _phrases("{lord_speaks} | {rival_speaks} | {clown_speaks} | {interruption}"),
    "after_clown": _phrases("{lady_speaks} | {lord_speaks} | {rival_speaks} | {interruption}"),
    "interruption": _phrases("{messenger_speaks} | {ghost_speaks} | {prompter_speaks}"),
    "lord_speaks": _phrases("{lord}:/{lord_says}{lord_goes_on}"),
    "lord_goes_on": ("{lord_says}{lord_goes_on}", "\n{after_lord}"),
    "rival_speaks": _phrases("{rival}:/{rival_says}{rival_goes_on}"),
    "rival_goes_on": ("{rival_says}{rival_goes_on}", "\n{after_rival}"),
    "lady_speaks": _phrases("{lady}:/{lady_says}{lady_goes_on}"),
    "lady_goes_on": ("{lady_says}{lady_goes_on}", "\n{after_lady}"),
    "clown_speaks": _phrases("{clown}:/{clown_says}{clown_goes_on}"),
    "clown_goes_on": ("\n{after_clown}", "{clown_says}{clown_goes_on}"),
    "messenger_speaks": _phrases("Messenger:/{messenger_says}/{anyone}"),
    "ghost_speaks": _phrases("Ghost:/{ghost_says}{ghost_goes_on}"),
    "ghost_goes_on": ("{ghost_says}{ghost_goes_on}", "\n{anyone}"),
    "prompter_speaks": _phrases("Prompter:/{prompter_says}//"),
    # ---- what they say. The lord rants, the rival duns, the lady has met men before, the clown thinks of soup
    "lord_says": _phrases("""
        The {nbar} {he_bit} {np}{stop}
        Unhand my {prize}, thou {insult}{stop}
        Thou {insult}, thou {insult}{stop}
        I {i_bit} {np}, {adj} as {np}{stop}
        I'll {verb} {np}, and {verb} {np}{stop}
        My {nbar} {he_bit} {np}{stop}
        O {adj} {prize}! O {mass}! O {mass}{stop}
        By Saint {saint}, {clause}{stop}
        Let {np} {verb} {np}{stop}
        When {clause},/Then {doth} {np} {verb} {np}{stop}
        What {adj} {noun} {he_bit} my {prize}?/
        If {clause},/Let {np} {verb} {np}{stop}
        Fie, {rival}! Thy {part} is {likeness}{stop}
        Rage, {weather}, and {verb} {np}{stop}
        Not {np}, nor {np},/Shall {verb} my {prize}{stop}
        Was it {np} that I {i_bit}?/
        Come, {adj} {noun}, and {verb} {np}{stop}
        How {adj}, how {adj} is {np}{stop}
        Never {doth} {np} {verb} {np}{stop}
        Bring {np}, and {np}, and {noun}{stop}
        Once did I {verb} {np} {prep} {np}{stop}
        Shall {np} {verb} {np},/And {lord} have neither {prize} nor {noun}?/
        Ho! Is there {mass}? Is there {adj} {mass}?/
        This {prize} was my father's. He was {likeness}{stop}
        Hence, {noun}! Hence, {adj} {noun}{stop}
        You gods, who {verb} {np} and {verb} {np}{stop}
        Must I {verb} {np}? Must I {verb} {np}?/
        Sweet {prize}, thy {part} is {likeness}{stop}
        Tell {np} that {clause}{stop}"""),
    "rival_says": _phrases("""
        Thou ow'st me $3 for {np}{stop}
        Pay me my $3, thou {insult}{stop}
        Item, {np}; item, {np};/Item, {np}, &c.; in all, $3{stop}
        A {adj}, {adj} {noun} {he_bit} {np}{stop}
        Zounds, {clause}{stop}
        My {nbar} {he_bit} {np}{stop}
        Where is my $3? Did {np} {verb} it?/
        That {prize} is mine. I {i_bit} {np}{stop}
        I lent thee {np}, and {np}{stop}
        Sirrah, {clause}{stop}
        The law is plain: {clause}{stop}
        For $3 I'd {verb} {np} and {verb} {np}{stop}
        Thy {part} is {likeness}, thy {part} {likeness}{stop}
        Look how {np} {he_bit} {np}{stop}
        Before {clause},/I'll {verb} {np}, and bill thee for the {noun}{stop}
        Out, {insult}! Out, {insult}{stop}
        Call {np}! Call {np}{stop}
        Hath {np} no {part}? Hath {np} no {mass}?/
        Juries {i_bit} {np} for {mass}{stop}
        As {np} {he_bit} {np},/So {do} I {verb} that {adj} {prize}{stop}
        Go, {verb} {np}; go, {verb} {np}{stop}
        Here's my receipt: {np}, signed by {np}{stop}
        No {noun}, no {adj} {noun}, and no $3{stop}
        Usury is {mass} {prep} {np}{stop}
        In {mass} and {mass}, {prep} {np},/I sued {np}{stop}
        Who sold thee {np}? Who lent thee {mass}?/"""),
    "lady_says": _phrases("""
        Alas, {clause}{stop}
        The {nbar} {he_bit} {np}{stop}
        Thy {nbar} {he_bit} {np}{stop}
        Good sirs, {verb} {np}{stop}
        My {kin} did {verb} {np}, and died{stop}
        Men are but {mass} and {mass}, {prep} {np}{stop}
        Love is {likeness}{stop}
        Peace, {adj} {noun}! And peace, thou {noun}{stop}
        Would that {np} might {verb} {np}{stop}
        You quarrel for a {prize}; I {i_bit} {np}{stop}
        He that {he_bit} {np}/Shall {verb} {np}{stop}
        Were I {np}, I {i_bit} {np}{stop}
        Give {np} the {prize}, and {verb} {np}{stop}
        Twice did I {verb} {np} {prep} {np}{stop}
        Sweet {rival}, thy {part} is {likeness}{stop}
        Yet {do} I {verb} {np}{stop}
        Kiss {np}, and {verb} {np}{stop}
        Had I {np}, I'd {verb} {np}{stop}
        I {i_bit} {np}, and it {he_bit} {np}{stop}
        Every {noun} that I {i_bit} is {likeness}{stop}
        O, for {np}, and {adj} {mass}{stop}
        Weep not, {noun}; {clause}{stop}
        Lend me {np}, that I may {verb} {np}{stop}
        So {np} {he_bit} {np}? I yawn{stop}
        Virtue is {likeness}, and {mass} is {likeness}{stop}
        Nurse said, {clause}{stop}
        Is {np} a husband? I {i_bit} {np}{stop}"""),
    "clown_says": _phrases("""
        Why, your {noun} is your only {noun}; for/{clause}, and he/that {i_bit} {np} hath no soup{final}
        Truly, masters, {clause},/and {clause}; but soup is soup{final}
        Here's a riddle: what is {adj} as {np},/and {adj} as {np}, and {he_bit} {np}? Soup{final}
        Marry, I had this {noun} of {np}, that had it/of {np}, that had it of {np};/and it {he_bit} {np}{final}
        Well, {clause}; ergo,/{clause}{final}
        Quoth I, {clause}; quoth he,/{clause}; so we had soup{final}
        Sing {burden=burdens}!/{verse}
        Mustard for {np}! Mustard for {np},/and {mass} for {np}, and {mass} {prep} {np}{final}
        Knock, knock, says {np}. Come in, says {np},/if thou be not {np}{final}
        Xerxes had {np}, and Cato {np}; I have/{np}, and it {he_bit} {np}{final}
        Nay, I am no scholar; but {clause},/and {adj} is {adj}, and {np} is {np}{final}
        Soup, sirs, is {likeness}. There is soup/{prep} {np}, and soup {prep} {np}{final}
        Ask {np} what {np} {he_bit}, and 'twill say/{mass}; ask me, and I say soup{final}
        I dreamt that I was {np}, and {np}/{he_bit} {np}, and there was {mass}, and I woke{final}"""),
    "burdens": _phrases("""
        hey the soup and the ladle | ho nonny mustard | fa la the goose | wallow, wallow, marrow
        fiddle-de-dumpling"""),
    "verse": _phrases("""
        The {adj} {noun} {prep} the {moon},/And {np} {he_bit} a {adj} {tune},/Sing {burden}{final}
        When {np} {he_bit} {np} on the {dale},/Then {verb} me {np}, and bring me the {ale},/Sing {burden}{final}
        My love hath {np}, and a {noun} for a {bed},/And {np} {he_bit} the {noun} of the {dead},/Sing {burden}{final}"""),
    "moon": _words("moon noon spoon dune lagoon"),
    "tune": _words("tune prune baboon bassoon buffoon saloon"),
    "dale": _words("dale gale trail sail rail"),
    "ale": _words("ale whale kale pail snail jail quail"),
    "bed": _words("bed shed head sled bread"),
    "dead": _words("dead unwed well-fed misled unread"),
    "ghost_says": _phrases("""
        I am the {kin} of {lady}, and {likeness}{stop}
        Whoo! The {adj} {noun} {he_bit} {np}{stop}
        Below, where {np} {he_bit} {np},/The damned have {mass}, and {mass}, but no spoons{stop}
        Cold is my {part}, and {adj} is my {noun}{stop}
        They buried me with {np} {prep} {np}{stop}
        Avenge my {part}! And {verb} {np}{stop}
        Beware {np}! Beware the {adj} {noun}{stop}
        Each night doth {np} {verb} {np}{stop}
        My soup was warm. Then {np} did {verb} it{stop}
        In {place} and {weather}, {prep} {np},/I moan for {mass}{stop}
        Forget the {prize}; remember {np}{stop}"""),
    "messenger_says": _phrases("""
        News, my good lords: {clause}{stop}
        Without there stands {np} with {np}{stop}
        I ran from {np} to tell you {clause}{stop}
        The {adj} {noun} is fled {prep} {np}{stop}
        Your {kin}, madam, {he_bit} {np}{stop}
        Here is a letter, writ {prep} {np}:/Dear {noun}, {clause}{stop}
        Forgive me; {np} {he_bit} the {prize}{stop}"""),
    "prompter_says": _phrases("""
        Exeunt, and {np} {he_bit} {np}.
        They fight with {np} and {np}. {rival} dies, complaining.
        Here {np} falls on {lord}. He bows.
        Thunder. The {prize} is eaten by {np}.
        A dance, with {np}. {clown} is sick {prep} {np}.
        {lady} takes the {prize}, and marries {np}."""),
    # ---- how a verse line ends: with the sentence, or with more of it on the next line
    "stop": (".\n", ",{comma}", "!\n", ";\n{semicolon_line}{stop}", ":\n{colon_line}{stop}"),
    "comma": ("\n{comma_line}{stop}", " {noun}!\n"),
    "comma_line": _phrases("""
        And {np} {he_bit} {np} | While {clause} | Or {he_bit} {np} {prep} {np} | Though {clause}
        Like {np} {prep} {np} | Lest {clause} | As {adj} as {np} {prep} {np}
        With {adj}, {adj} {mass} and {adj} {mass} | Till {clause} | Because {clause}
        For {np}, and {np}, and {mass} | But not {np}, nor {np} | Where {np} {he_bit} {np}"""),
    "semicolon_line": _phrases("""
        My {nbar} {he_bit} {np} | For {clause} | Thy {nbar} {he_bit} {np} | Yet {clause} | And I {i_bit} {np}
        The {nbar} {he_bit} {np} | Else {clause} | But {np} {he_bit} {np} | Nor {doth} {np} {verb} {np}
        No {nbar} {he_bit} {np} | Thus {clause}"""),
    "colon_line": _phrases("""
        O {mass}, O {adj} {noun} | First {verb} {np}, then {verb} {np}
        There's {mass} in {np}, and {mass} in {np} | 'Tis {likeness}, and 'tis {likeness}
        Some {verb} {np}, some {np} | Adieu, {adj} {noun}! Adieu, {mass}"""),
    "final": (".\n", "!\n", ", {noun}!\n", " - {mass}!\n"),
    # ---- phrases
    "clause": ("{np} {he_bit} {np}", "I {i_bit} {np}", "thou {dost} {bite} {np}"),
    "he_bit": ("{bit}", "{doth} {bite}"),
    "i_bit": ("{bit}", "{do} {bite}"),
    "bite": ("{verb}", "{adverb} {verb}"),
    "np": _phrases("""
        the {nbar} | my {nbar} | a {adj} {noun} | thy {nbar} | this {nbar} | his {nbar} | that {nbar}
        our {nbar} | her {nbar} | your {nbar} | yon {nbar} | some {nbar} | all {mass} | no {nbar} | each {nbar}
        one {adj} {noun} | Saint {saint}"""),
    "nbar": ("{adj} {noun}", "{thing}", "{beast}", "{person}", "{part}"),
    "noun": ("{thing}", "{beast}", "{person}"),
    "likeness": ("{adj} and {adj}", "{np}", "as {adj} as {np}", "like {np}", "more {adj} than {np}"),
    "insult": ("{adj}{insult_end}", "{noun}-{agent}"),
    "insult_end": (" {noun}-{agent}", ", {adj} {noun}"),
    # ---- people
    "lords": _phrases("""
        Lord Mildew | Duke Gristle | King Egbo | Earl Pottage | Sir Xavier | Prince Yawn | Baron Bilge
        Count Ruff | Marquis Moth"""),
    "rivals": _phrases("""
        Judge Knell | Master Nib | Captain Zeal | Doctor Ague | Bishop Lard | Uncle Jasper | Notary Inkle
        Alderman Flint"""),
    "ladies": _phrases("""
        Lady Zest | Dame Ursula | Widow Thrush | Mistress Quill | Queen Hild | Abbess Opal | Aunt Winifred
        Countess Ximena"""),
    "clowns": _words("Dobbin Pipkin Turnip Hodge Crumb Nob Fennel Jolt Vetch Barnaby"),
    "kinsfolk": _words("uncle cousin nephew husband grandsire godson stepson brother twin tailor"),
    "saint": _words("Crumb Gudgeon Ladle Tiddle Bunion Parsley Wulf Ethel Dribble Osk Yolk"),
    "places": _words("""scullery crypt barn marsh tavern kitchen dungeon belfry bog palace ditch henhouse laundry
        cellar pantry bakery fish-market vestry moat wood balcony bathhouse"""),
    "weathers": _words("rain fog sleet drizzle hail snow murk thunder frost wind gloom mist moonlight gravy"),
    # ---- words, likeliest first. Every adjective begins with a consonant, so that "a" is always right
    "do": _words("can may did must will dare shall could might would should"),
    "dost": _words("wilt dost must didst canst mayst shalt dar'st couldst mightst wouldst shouldst"),
    "doth": _words("can may did must will doth dare shall could might would should"),
    "prep": _words("at by in on for near over with like upon under above behind beside beyond within beneath"),
    "thing": _words("""ham ladle boot pie wig egg tub cheese bun jug turnip spoon sock bell leek drum kettle lute mop
        hat bag bed bib bin bow box cap cup gem inn jam jar key lid log map mat mug net nut oar pan peg pen pin pot
        rag rug rod urn fig pea pod hut sty boat bowl book bush cage cake cart clog club coal coat coin comb cork crib
        desk dish door fern fife flag fork gate gong gown harp helm hoop horn hose kite knot lamp leaf loaf lock mace
        mask mast nail oven pail pear pill pipe plug plum pond pump raft rake roof rope ruff sack sail shed shoe sled
        soap spit stew tart tent tile tomb tray twig vase veil vest wand well wick yoke yolk stool broom bench crown
        crumb crust flute glove spade onion candle button pudding trumpet parsnip cabbage crumpet sausage custard
        bagpipe doublet dumpling codpiece tombstone"""),
    "beast": _words("""goose ox newt eel owl ape hen pig toad mole yak squid moth cod gnat asp trout snail ewe weasel
        ant bat bee bug cat cow cub cur daw doe dog elk fly fox gnu hog jay pup ram rat roe sow carp clam colt crab
        crow deer dove duck fawn flea frog goat grub gull hare hawk lamb lark lion lynx mare mink mite mule pike pony
        rook seal slug stag swan vole wasp wolf worm wren mouse otter heron leech stoat stork viper whelk camel badger
        beetle kipper maggot oyster pigeon earwig haddock lobster hedgehog"""),
    "person": _words("""fool knave oaf nun monk fop friar cook clerk wag lout ogre bard witch bishop imp dupe widow
        pope poet cad elf boor clod dolt hack heir hero jade king liar mime peer prig runt serf sire snob thug twit
        baker dunce groom judge nurse queen rogue usher vicar pirate squire tailor tyrant barber butler hermit jester
        parson pedant sexton usurer wizard cobbler glutton villain"""),
    "part": _words("""toe ear knee nose lip chin shin hip rib liver elbow brow thumb wart gum arm eye jaw leg back
        bone hair hand head heel lung nape neck palm pate skin vein ankle belly skull tooth wrist beard spleen tongue
        kidney tonsil nostril eyebrow moustache"""),
    "mass": _words("""soup woe lard gin grief mud gravy ink wit dew mustard suet wax rye lust gout ire broth awe zeal
        air ale joy law sin tar tin beef dust envy fame fear fury glee gold heat hope love luck malt milk pain peat
        pity pork rage rust salt sand silk veal vice wine wool sloth grace gruel guilt mercy mirth pride spite thyme
        tripe truth wrath butter honour sorrow wisdom treason vinegar porridge marmalade philosophy"""),
    "adj": _words("""damp vile wet bald limp soggy smug lewd boiled plump gouty dank sly numb lax glum mouldy dour
        pert fat clammy meek hairy rude shy holy pious lukewarm tragic buttered coy dim dry mad raw sad wan wee wry
        bare blue bold calm cold curt dead deep dull dumb fair fond foul glad gory grim hale huge keen kind lame lazy
        lean loud mean mild mute neat pale pink poor prim pure rank rash rich ripe sick slim slow snug soft sore sour
        tall tame taut thin trim true vain vast warm wary weak wide wild wily wise worn zany giddy jolly moist proud
        stale stiff lumpy dismal greasy mystic rancid rented rotten sacred solemn spotted pickled pompous tedious
        bashful borrowed toothless squinting half-boiled waterlogged"""),
    "verb": _words("""woo bite sue kiss boil bury rob mock wed haunt oil salt eat pawn flog curse butter nip lick dun
        pity baste bag buy dip dye fan fry gag hit hug irk pat pet rub sip tow tug vex win bait bake bill bind burn
        chop cook crop cuff curb deny drag dupe feed find flay gild goad grab hail hang harm hate haul heal
        hear help hide hire hold hunt jail jilt kick lend lift lose love lure maim melt mend milk miss peck peel pelt
        pick poke pull push seek sell send shun skin slap slay soak stab stew tame tend toss trap trim trip urge veto
        wake wash wear whip wipe dodge greet scrub bless bribe cheat crown drown knead marry mourn sniff steal stuff
        thump weigh forget knight outwit pickle praise tickle banish swallow befriend serenade"""),
    "bit": _words("""bit ate wooed sued boiled wed kissed mocked buried stole slew robbed smelt licked hid salted
        haunted sold fed hit ran saw won bent blew cast dyed felt fled gave held hung kept knew left lent lost paid
        rang rode sang sent shot shut spun tied told took tore trod wore wove bred drew irked wrote bound broke burnt
        chose dropt flung found froze heard hired loved shook smote split stuck stung swept swung tamed threw vexed
        wrung bathed bribed caught cursed fought hugged kicked milked missed pawned pushed sought struck taught tossed
        basted peeled forgot pinched shunned slapped sniffed stabbed stirred stuffed thumped blessed flogged married
        mourned crowned drowned pickled praised tickled buttered knighted banished outwitted swallowed serenaded
        befriended"""),
    "adverb": _words("""not oft still twice yet ne'er once sadly fain nobly ill thus long never first madly thrice
        gladly coldly wisely humbly softly weeping sideways"""),
    "agent": _words("""eater biter hider wooer kisser lender licker seller hugger monger tickler poacher sniffer
        stealer gobbler juggler worrier fancier botherer"""),
}
