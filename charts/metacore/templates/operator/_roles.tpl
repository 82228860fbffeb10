{{/* A role and its binding to the operator. Given (list root kind name namespace rules); kind is Role or ClusterRole, rules
     is YAML text, namespace is empty for a ClusterRole. */}}
{{- define "metacore.operatorRole" -}}
{{- $root := index . 0 -}}
{{- $kind := index . 1 -}}
{{- $name := index . 2 -}}
{{- $namespace := index . 3 -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "metacore.labels" (list $root "operator") | nindent 4 }}
rules:
  {{- index . 4 | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "metacore.labels" (list $root "operator") | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "metacore.fullname" $root }}-operator
    namespace: {{ $root.Release.Namespace }}
{{- end -}}

{{/* Watching Addons, saying what is true of them, holding their deletion until they are gone. The finalizer of an Addon is
     in its metadata, so `patch` covers it; `addons/finalizers` lets objects be owned by an Addon where admission asks. */}}
{{- define "metacore.addonRules" -}}
- apiGroups: [metacore.dev]
  resources: [addons]
  verbs: [get, list, watch, patch]
- apiGroups: [metacore.dev]
  resources: [addons/status]
  verbs: [get, patch]
- apiGroups: [metacore.dev]
  resources: [addons/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* What Addons refer to, by name only and never as a list; the operator itself asks for the label metacore.dev/allow.
     It writes the Secrets that hold what an installation was given. */}}
{{- define "metacore.referenceRules" -}}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
{{- end -}}

{{/* The release's own objects, each by its name. RBAC cannot name what is created, nor single pods. */}}
{{- define "metacore.releaseRules" -}}
{{- $name := include "metacore.fullname" . -}}
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [{{ $name }}-config]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "metacore.trustSecret" . }}]
  verbs: [get, list, watch]
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: [{{ $name }}-kernel]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [metacore.dev]
  resources: [moderollouts]
  resourceNames: [{{ $name }}-kernel]
  verbs: [get]
- apiGroups: [metacore.dev]
  resources: [moderollouts/status]
  resourceNames: [{{ $name }}-kernel]
  verbs: [patch]
- apiGroups: [metacore.dev]
  resources: [moderollouts]
  verbs: [create]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ $name }}-operator]
  verbs: [get, update, patch]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
{{- end -}}
