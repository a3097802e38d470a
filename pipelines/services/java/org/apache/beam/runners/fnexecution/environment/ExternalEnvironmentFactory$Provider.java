package org.apache.beam.runners.fnexecution.environment;

import org.apache.beam.runners.fnexecution.artifact.ArtifactRetrievalService;
import org.apache.beam.runners.fnexecution.control.ControlClientPool;
import org.apache.beam.runners.fnexecution.control.FnApiControlClientPoolService;
import org.apache.beam.runners.fnexecution.logging.GrpcLoggingService;
import org.apache.beam.runners.fnexecution.provisioning.StaticGrpcProvisionService;
import org.apache.beam.sdk.fn.IdGenerator;
import org.apache.beam.sdk.fn.server.GrpcFnServer;
import org.apache.beam.sdk.fn.server.ServerFactory;

/**
 * Stands before Beam's nested class of this name on the class path: the one place that chooses where the services of an EXTERNAL
 * environment listen. The environments themselves are Beam's.
 */
public class ExternalEnvironmentFactory$Provider implements EnvironmentFactory.Provider {
  @Override
  public EnvironmentFactory createEnvironmentFactory(
      GrpcFnServer<FnApiControlClientPoolService> control,
      GrpcFnServer<GrpcLoggingService> logging,
      GrpcFnServer<ArtifactRetrievalService> artifacts,
      GrpcFnServer<StaticGrpcProvisionService> provisioning,
      ControlClientPool clients,
      IdGenerator ids) {
    return ExternalEnvironmentFactory.create(control, logging, artifacts, provisioning, clients.getSource(), ids);
  }

  @Override
  public ServerFactory getServerFactory() {
    return new LocalSockets();
  }
}
