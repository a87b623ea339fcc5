"use strict";
// Sends the request that a form describes, and shows the answer below it. The token stays in this page: nothing keeps it.
const token = document.getElementById("token");

function request(form) {
  const headers = new Headers(), query = new URLSearchParams();
  let path = form.dataset.path, body;
  for (const field of form.querySelectorAll("[data-in]")) {
    if (field.dataset.in === "file") body = field.files[0] ?? body;
    else if (field.dataset.in === "body") body = field.value;
    else if (field.dataset.in === "path") path = path.replace(`{${field.name}}`, encodeURIComponent(field.value));
    else if (field.value === "") continue;
    else if (field.dataset.in === "query") query.set(field.name, field.value);
    else headers.set(field.name, field.value);
  }
  if (token.value !== "") headers.set("Authorization", `Bearer ${token.value}`);
  const text = query.toString();
  return [path + (text === "" ? "" : `?${text}`), { method: form.dataset.method, headers, body, credentials: "omit" }];
}

async function show(answer, into) {
  const lines = [`${answer.status} ${answer.statusText}`];
  for (const [name, value] of answer.headers) lines.push(`${name}: ${value}`);
  const type = answer.headers.get("content-type") ?? "";
  const text = /json|text/.test(type) ? await answer.text() : `(${(await answer.arrayBuffer()).byteLength} bytes)`;
  let body = text;
  try { body = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it is */ }
  into.textContent = `${lines.join("\n")}\n\n${body}`;
}

for (const form of document.querySelectorAll("form.send")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const into = form.querySelector("pre");
    into.hidden = false;
    into.textContent = "…";
    try {
      await show(await fetch(...request(form)), into);
    } catch (problem) {
      into.textContent = `The request could not be sent: ${problem.message}`;
    }
  });
}
document.getElementById("who").addEventListener("submit", (event) => event.preventDefault());
