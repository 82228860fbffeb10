"use strict";
/* A login above Swagger UI. The token lives in this tab only; every request of the page carries it. */
const prefix = document.body.dataset.prefix;
const form = document.getElementById("login");
const caller = document.getElementById("caller");
const message = document.getElementById("message");
const KEY = "metacore.docs";

function session() {
  try { return JSON.parse(sessionStorage.getItem(KEY)); } catch { return null; }
}

function show() {
  const current = session();
  form.hidden = Boolean(current);
  caller.hidden = !current;
  if (current) caller.querySelector("span").textContent = current.email;
  SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#swagger",
    deepLinking: true,
    requestInterceptor(request) {
      const token = session()?.token;
      if (token && !request.headers.Authorization) request.headers.Authorization = `Bearer ${token}`;
      return request;
    },
    responseInterceptor(response) {
      if (response.status === 401 && session() && String(response.url).endsWith("/openapi.json")) {
        sessionStorage.removeItem(KEY);
        message.textContent = "The session ended. Log in again.";
        show();
      }
      return response;
    },
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  message.textContent = "";
  const fields = Object.fromEntries(new FormData(form));
  try {
    const response = await fetch(`${prefix.replace(/^\//, "")}/auth/login`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(fields),
    });
    const reply = await response.json();
    if (!reply.success) throw new Error(reply.message);
    sessionStorage.setItem(KEY, JSON.stringify({ email: reply.data.user.email, token: reply.data.token }));
    form.reset();
    show();
  } catch (error) {
    message.textContent = `Login failed: ${error.message}`;
  }
});

caller.querySelector("button").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  show();
});

show();
