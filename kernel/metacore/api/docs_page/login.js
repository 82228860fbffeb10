"use strict";
/* A login above Swagger UI. The token lives in this tab only; every request that is tried carries it. */
const prefix = document.body.dataset.prefix;
const form = document.getElementById("login");
const caller = document.getElementById("caller");
const message = document.getElementById("message");
const KEY = "metacore.docs";
const SCHEME = "HTTPBearer";

function session() {
  try { return JSON.parse(sessionStorage.getItem(KEY)); } catch { return null; }
}

/* The document as this caller sees it. A session that ended in the meantime is told and forgotten. */
async function described() {
  const current = session();
  const headers = current ? { Authorization: `Bearer ${current.token}` } : {};
  const response = await fetch("openapi.json", { headers, cache: "no-store" });
  if (response.status === 401 && current) {
    sessionStorage.removeItem(KEY);
    message.textContent = "The session ended. Log in again.";
    return described();
  }
  if (!response.ok) throw new Error(`openapi.json answered ${response.status}`);
  return response.json();
}

async function show() {
  let spec;
  try {
    spec = await described();
  } catch (error) {
    message.textContent = `The description cannot be loaded: ${error.message}`;
    return;
  }
  const current = session();
  form.hidden = Boolean(current);
  caller.hidden = !current;
  caller.querySelector("span").textContent = current ? current.email : "";
  document.title = `${spec.info.title} API`;
  document.getElementById("title").textContent = spec.info.title;
  const schemes = Object.keys(spec.components?.securitySchemes ?? {});
  document.body.classList.toggle("other-schemes", schemes.some((name) => name !== SCHEME));
  const ui = SwaggerUIBundle({
    spec,
    dom_id: "#swagger",
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    filter: true,
    tryItOutEnabled: true,
    onComplete() {
      if (current) ui.preauthorizeApiKey(SCHEME, current.token);
      document.body.dataset.shown = current ? current.email : "anonymous";
    },
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  message.textContent = "";
  const fields = Object.fromEntries(new FormData(form));
  try {
    const response = await fetch(`.${prefix}/auth/login`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(fields),
    });
    const reply = await response.json();
    if (!reply.success) throw new Error(reply.message);
    sessionStorage.setItem(KEY, JSON.stringify({ email: reply.data.user.email, token: reply.data.token }));
    form.reset();
    await show();
  } catch (error) {
    message.textContent = `Login failed: ${error.message}`;
  }
});

caller.querySelector("button").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  message.textContent = "";
  show();
});

show();
