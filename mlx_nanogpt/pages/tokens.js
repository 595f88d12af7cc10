"use strict";
// Text to tokens and back, as text/characters.py and text/byte_pairs.py. A token of a text is {id, text}; a character that the
// model has never seen is a piece without an id. A character of several tokens is the text of the last one.

const RETURN = "\r", SHOWN_RETURN = "␍";  // a field of text turns "\r" into "\n"
const MARK = "\0", END_OF_TEXT = "<|endoftext|>";
// Curly quotes and dashes, as a keyboard has them.
const TYPED = { "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-" };
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;  // GPT-2's

/** The tokenizer of its `json`; `start` and `end` are ids (`end` may be null), `marks` says whether its texts are documents. */
function makeTokenizer({ json, start, end, marks }) {
  const described = JSON.parse(json);
  return Object.assign("model" in described ? new BPETokenizer(described, marks) : new CharTokenizer(described), { start, end });
}

class Tokenizer {
  /** The pieces of `text`. An unknown character has the tokens of its straight form or of its parts, where those are known. */
  encode(text) {
    const pieces = [];
    let known = "";
    for (const shown of text) {
      const character = shown === SHOWN_RETURN && this.knows(RETURN) ? RETURN : shown;
      if (this.knows(character)) { known += character; continue; }
      if (known) pieces.push(...this.encodeKnown(known));
      known = "";
      const parts = [...(TYPED[character] ?? character).normalize("NFKD")].filter(part => this.knows(part)).join("");
      const tokens = parts ? this.encodeKnown(parts) : [{ id: null }];
      pieces.push(...tokens.map(({ id }, i) => ({ id, text: i < tokens.length - 1 ? "" : character })));
    }
    return known ? pieces.concat(this.encodeKnown(known)) : pieces;
  }
  /** The text of one token; bytes that are no text alone become U+FFFD. */
  decode(id) { const decoder = this.decoder(); return decoder(id) + decoder(null); }
}

class CharTokenizer extends Tokenizer {
  constructor({ symbols }) {
    super();
    this.ids = new Map(Array.from(symbols, (symbol, id) => [symbol, id]));
    this.shown = Array.from(symbols, show);
  }
  knows(character) { return this.ids.has(character); }
  encodeKnown(text) { return Array.from(text, character => this.ids.get(character)).map(id => ({ id, text: this.shown[id] })); }
  /** A function from the next id to the text that it completes, and from null to what is left at the end. */
  decoder() { return id => id === null ? "" : this.shown[id]; }
}

class BPETokenizer extends Tokenizer {
  constructor({ model, added_tokens }, marks) {
    super();
    this.vocab = new Map(Object.entries(model.vocab));
    this.whole = model.ignore_merges ? this.vocab : new Map();
    this.added = new Map((added_tokens ?? []).map(({ content, id }) => [content, id]));
    this.bytes = new Map();  // by id
    for (const [piece, id] of [...this.vocab, ...this.added]) this.bytes.set(id, bytesOf(piece));
    if (marks) {
      this.bytes.set(this.added.get(END_OF_TEXT), utf8(MARK));
      this.added.set(MARK, this.added.get(END_OF_TEXT));
    }
    this.byteKnown = new Set([...this.bytes.values()].filter(bytes => bytes.length === 1).map(bytes => bytes[0]));
    this.merges = new Map();  // the pair of ids: [rank, id of both]
    model.merges.forEach((merge, rank) => {
      const [a, b] = Array.isArray(merge) ? merge : merge.split(" ");
      const pair = pairOf(this.vocab.get(a), this.vocab.get(b));
      this.merges.set(pair, [rank, this.vocab.get(a + b)]);
    });
    const longestFirst = [...this.added.keys()].sort((a, b) => b.length - a.length);
    const escaped = longestFirst.map(content => content.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
    this.addedParts = escaped.length ? RegExp(`(${escaped.join("|")})`) : null;
    this.words = new Map();  // the ids of a word, computed once
  }
  knows(character) { return utf8(character).every(byte => this.byteKnown.has(byte)); }

  encodeKnown(text) {
    const parts = this.addedParts ? text.split(this.addedParts) : [text];  // every second one is an added token
    return parts.flatMap((part, i) => i % 2 ? [{ id: this.added.get(part), text: part }]
      : (part.match(WORDS) ?? []).flatMap(word => this.encodeWord(word)));
  }

  /** Merge the pair that was learned first, again and again. */
  encodeWord(word) {
    if (!this.words.has(word)) {
      const spelled = spell(word), ids = this.whole.has(spelled) ? [this.whole.get(spelled)] : Array.from(spelled, c => this.vocab.get(c));
      for (;;) {
        let best = null, at = -1;
        for (let i = 0; i + 1 < ids.length; i++) {
          const merge = this.merges.get(pairOf(ids[i], ids[i + 1]));
          if (merge && (!best || merge[0] < best[0])) { best = merge; at = i; }
        }
        if (!best) break;
        ids.splice(at, 2, best[1]);
      }
      this.words.set(word, ids);
    }
    const decoder = this.decoder();
    return this.words.get(word).map(id => ({ id, text: decoder(id) }));
  }

  decoder() {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return id => id === null ? decoder.decode() : show(decoder.decode(this.bytes.get(id) ?? new Uint8Array(), { stream: true }));
  }
}

const show = text => text.replaceAll(RETURN, SHOWN_RETURN);
const utf8 = text => new TextEncoder().encode(text);
const pairOf = (a, b) => a * 2 ** 24 + b;

/** GPT-2's visible character for each byte: its character in Latin-1, or one from U+0100 on. */
const CHARACTERS = (() => {
  const visible = byte => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(visible(byte) ? byte : 256 + others++));
})();
const BYTES = new Map(CHARACTERS.map((character, byte) => [character, byte]));
const spell = text => Array.from(utf8(text), byte => CHARACTERS[byte]).join("");
const bytesOf = piece => {
  const bytes = Array.from(piece, character => BYTES.get(character));
  return bytes.includes(undefined) ? utf8(piece) : Uint8Array.from(bytes);  // an added token has plain spelling
};
