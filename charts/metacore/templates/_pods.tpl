{{/* What every pod has in common. Given (list root component values security). `enableServiceLinks` is off because a
     Service named metacore would otherwise put METACORE_PORT=tcp://… into every pod of the namespace, where it would be
     read as the port to listen on. */}}
{{- define "metacore.pod" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
serviceAccountName: {{ include "metacore.fullname" $root }}-{{ index . 1 }}
automountServiceAccountToken: {{ eq (index . 1) "operator" }}
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- with (index . 3).runAsUser }}
  runAsUser: {{ int64 . }}
  {{- end }}
  {{- with (index . 3).runAsGroup }}
  runAsGroup: {{ int64 . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* The restricted profile, and a root file system that nobody writes to. */}}
{{- define "metacore.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Image of our own containers. */}}
{{- define "metacore.containerImage" -}}
image: {{ include "metacore.image" (list .Values.image .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/* An environment variable from a Secret. Given (list variable secret key). */}}
{{- define "metacore.secretEnv" -}}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ index . 1 }}
      key: {{ index . 2 }}
{{- end -}}

{{/* Settings as environment variables, in the order of their names. Helm reads whole numbers as floats, which would print
     large ones as 6.7e+07. */}}
{{- define "metacore.settingsEnv" -}}
{{- range $name, $value := . }}
{{- if and (kindIs "float64" $value) (eq (floor $value) $value) }}
{{- $value = int64 $value }}
{{- end }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}
