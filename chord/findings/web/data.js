// What the page carries beside its text: JSON, compressed with gzip, written in base64. Text of models is in here alone,
// and goes into the page only as text.

/** The JSON in the script element with this id. Resolves to null where there is none. */
async function unpacked(id) {
  const holder = document.getElementById(id);
  if (!holder) return null;
  const bytes = Uint8Array.from(atob(holder.textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** An element with attributes and children; strings become text. */
function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
