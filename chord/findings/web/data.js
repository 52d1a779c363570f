// What the page carries beside its text: JSON, compressed with gzip, written in base64. Text of models is in here alone,
// and goes into the page only as text.

/** The JSON in the script element with this id. Resolves to null where there is none. */
async function unpacked(id) {
  const holder = document.getElementById(id);
  if (!holder) return null;
  const bytes = Uint8Array.from(atob(holder.textContent.trim()), (letter) => letter.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(await inflated(bytes)));
}

/** The content of a gzip file; by the browser where it can. */
async function inflated(bytes) {
  if (typeof DecompressionStream === "undefined") return gunzipped(bytes);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The content of a gzip file without header fields (RFC 1952), for browsers that cannot. */
function gunzipped(bytes) {
  const size = new DataView(bytes.buffer, bytes.byteOffset).getUint32(bytes.length - 4, true);
  return inflate(bytes.subarray(10), new Uint8Array(size));
}

const LENGTH_BASE = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCE_BASE = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577];
const DISTANCE_BITS = [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
const LENGTHS_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** Deflated data (RFC 1951) into `out`, which has room for all of it. */
function inflate(data, out) {
  let at = 0, bit = 0, end = 0, last = false;
  const take = (count) => {
    let value = 0;
    for (let i = 0; i < count; i++) {
      value |= ((data[at] >> bit) & 1) << i;
      if (++bit === 8) { bit = 0; at++; }
    }
    return value;
  };
  const symbol = (code) => {
    let word = 0, first = 0, index = 0;
    for (let length = 1; length <= 15; length++) {
      word |= take(1);
      const count = code.counts[length];
      if (word - first < count) return code.symbols[index + word - first];
      index += count;
      first = (first + count) << 1;
      word <<= 1;
    }
    throw new Error("found damaged data");
  };
  const block = (literals, distances) => {
    for (let found = symbol(literals); found !== 256; found = symbol(literals)) {
      if (found < 256) { out[end++] = found; continue; }
      const length = LENGTH_BASE[found - 257] + take(LENGTH_BITS[found - 257]);
      const far = symbol(distances);
      const distance = DISTANCE_BASE[far] + take(DISTANCE_BITS[far]);
      for (let i = 0; i < length; i++, end++) out[end] = out[end - distance];
    }
  };
  while (!last) {
    last = take(1) === 1;
    const kind = take(2);
    if (kind === 0) {
      if (bit) { bit = 0; at++; }
      const length = data[at] | (data[at + 1] << 8);
      out.set(data.subarray(at + 4, at + 4 + length), end);
      at += 4 + length;
      end += length;
    } else if (kind === 1) block(...fixedCodes());
    else block(...givenCodes(take, symbol));
  }
  return out;
}

/** A Huffman code by the lengths of its words. */
function huffman(lengths) {
  const counts = new Uint16Array(16), offsets = new Uint16Array(16), symbols = new Uint16Array(lengths.length);
  for (const length of lengths) counts[length]++;
  counts[0] = 0;
  for (let i = 1; i < 15; i++) offsets[i + 1] = offsets[i] + counts[i];
  lengths.forEach((length, index) => { if (length) symbols[offsets[length]++] = index; });
  return { counts, symbols };
}

function fixedCodes() {
  const literals = Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8));
  return [huffman(literals), huffman(new Array(30).fill(5))];
}

function givenCodes(take, symbol) {
  const literals = take(5) + 257, distances = take(5) + 1, count = take(4) + 4;
  const ordered = new Array(19).fill(0);
  for (let i = 0; i < count; i++) ordered[LENGTHS_ORDER[i]] = take(3);
  const code = huffman(ordered), lengths = [];
  while (lengths.length < literals + distances) {
    const found = symbol(code);
    if (found < 16) lengths.push(found);
    else {
      const value = found === 16 ? lengths[lengths.length - 1] : 0;
      const times = found === 16 ? 3 + take(2) : found === 17 ? 3 + take(3) : 11 + take(7);
      for (let i = 0; i < times; i++) lengths.push(value);
    }
  }
  return [huffman(lengths.slice(0, literals)), huffman(lengths.slice(literals))];
}

/** An element with attributes and children; strings become text. */
function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
