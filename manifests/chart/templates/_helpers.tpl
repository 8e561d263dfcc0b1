{{- /* Labels of every object: (list $ COMPONENT), COMPONENT may be empty. */ -}}
{{- define "nodetls.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: nodetls
app.kubernetes.io/part-of: nodetls
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* Labels of pods, which no new version of the chart may change without need. */ -}}
{{- define "nodetls.podLabels" -}}
app.kubernetes.io/component: {{ . }}
app.kubernetes.io/name: nodetls
app.kubernetes.io/part-of: nodetls
{{- end -}}

{{- define "nodetls.image" -}}
image: {{ with .Values.image }}{{ if .digest }}{{ printf "%s@%s" .repository .digest | quote }}{{ else }}{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) | quote }}{{ end }}{{ end }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end -}}
