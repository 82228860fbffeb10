{{/* What all names begin with. Forty characters leave room for `-migrate-`, a revision and a digest within 63. */}}
{{- define "metacore.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | replace "." "-" | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that pods are selected by. Given (list root component). They never change, since selectors cannot. */}}
{{- define "metacore.selector" -}}
{{- $root := first . -}}
app.kubernetes.io/name: metacore
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end -}}

{{/* Labels of an object. Given (list root component). */}}
{{- define "metacore.labels" -}}
{{- $root := first . -}}
{{ include "metacore.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of a pod: those of the selector and the user's. Given (list root component labels). The chart's version is
     not among them, so that an upgrade which changes nothing else restarts nothing. */}}
{{- define "metacore.podLabels" -}}
{{ include "metacore.selector" (list (index . 0) (index . 1)) }}
{{- with merge (dict) (index . 2) (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Given (list image defaultTag). */}}
{{- define "metacore.image" -}}
{{- $image := first . -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default (last .) $image.tag }}
{{- end -}}
{{- end -}}

{{- define "metacore.trustSecret" -}}
{{- default (printf "%s-trust" (include "metacore.fullname" .)) .Values.trust.existingSecret -}}
{{- end -}}

{{- define "metacore.appSecret" -}}
{{- default (printf "%s-secrets" (include "metacore.fullname" .)) .Values.secrets.existingSecret -}}
{{- end -}}

{{- define "metacore.kernelDatabaseSecret" -}}
{{- default (printf "%s-database" (include "metacore.fullname" .)) .Values.database.existingSecret -}}
{{- end -}}

{{- define "metacore.ownerDatabaseSecret" -}}
{{- default (include "metacore.kernelDatabaseSecret" .) .Values.database.ownerSecret -}}
{{- end -}}

{{/* Namespaces that Addons may be in when the operator does not watch all, and in which it may read what they refer to. A
     JSON list, because a template can only return text. */}}
{{- define "metacore.watchedNamespaces" -}}
{{- .Values.operator.watch.namespaces | default (list .Release.Namespace) | uniq | sortAlpha | toJson -}}
{{- end -}}
