// Requests to the service.

/** Send a request and return the response. Errors become an Error with the service's own sentence. */
export async function request(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem("token");
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...headers } });
    } catch {
      throw new Error("The service does not answer. Is it still running?");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    const body = await response.json().catch(() => ({}));
    throw new Error(body.detail ?? `The service answered with status ${response.status}.`);
  }
}

/** Let the user type the token. It is kept until the tab is closed. */
function askForToken() {
  const dialog = document.getElementById("ask");
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      sessionStorage.setItem("token", document.getElementById("token").value.trim());
      resolve();
    };
  });
}

/** Unpack deflated values in base64: one byte each, or two, the lower first. */
export async function unpack(text, isWide) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return isWide ? new Uint16Array(buffer) : new Uint8Array(buffer);
}

/** Offer a file for download. */
export function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
