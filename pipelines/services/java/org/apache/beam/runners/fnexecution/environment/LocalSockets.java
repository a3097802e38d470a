package org.apache.beam.runners.fnexecution.environment;

import java.io.File;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.apache.beam.model.pipeline.v1.Endpoints.ApiServiceDescriptor;
import org.apache.beam.sdk.fn.server.GrpcContextHeaderAccessorProvider;
import org.apache.beam.sdk.fn.server.ServerFactory;
import org.apache.beam.vendor.grpc.v1p60p1.io.grpc.BindableService;
import org.apache.beam.vendor.grpc.v1p60p1.io.grpc.Server;
import org.apache.beam.vendor.grpc.v1p60p1.io.grpc.ServerInterceptors;
import org.apache.beam.vendor.grpc.v1p60p1.io.grpc.netty.NettyServerBuilder;
import org.apache.beam.vendor.grpc.v1p60p1.io.netty.channel.EventLoopGroup;
import org.apache.beam.vendor.grpc.v1p60p1.io.netty.channel.epoll.EpollEventLoopGroup;
import org.apache.beam.vendor.grpc.v1p60p1.io.netty.channel.epoll.EpollServerDomainSocketChannel;
import org.apache.beam.vendor.grpc.v1p60p1.io.netty.channel.unix.DomainSocketAddress;
import org.apache.beam.vendor.grpc.v1p60p1.io.netty.util.concurrent.DefaultThreadFactory;

/**
 * Where the services that an SDK worker calls listen: never beyond this machine.
 *
 * <p>Beam's own factory says "localhost" and binds every interface. With {@code -Dtandem.sockets=FOLDER} they are Unix sockets in that
 * folder, which belongs to the user alone; else ports of the loopback interface.
 */
final class LocalSockets extends ServerFactory {
  private static final long SHORTEST_KEEP_ALIVE_SECONDS = 20;
  private static final String FOLDER = System.getProperty("tandem.sockets", "");

  @Override
  public Server allocateAddressAndCreate(List<BindableService> services, ApiServiceDescriptor.Builder told) throws IOException {
    if (FOLDER.isEmpty()) {
      InetAddress loopback = InetAddress.getLoopbackAddress();
      Server server = serve(services, NettyServerBuilder.forAddress(new InetSocketAddress(loopback, 0)));
      told.setUrl(loopback.getHostAddress() + ":" + server.getPort());
      return server;
    }
    File socket = new File(FOLDER, UUID.randomUUID().toString().substring(0, 8) + ".sock");
    NettyServerBuilder builder =
        NettyServerBuilder.forAddress(new DomainSocketAddress(socket))
            .channelType(EpollServerDomainSocketChannel.class)
            .bossEventLoopGroup(Threads.GROUP)
            .workerEventLoopGroup(Threads.GROUP);
    Server server = serve(services, builder);
    told.setUrl("unix://" + socket.getAbsolutePath());
    return server;
  }

  @Override
  public Server create(List<BindableService> services, ApiServiceDescriptor wanted) {
    throw new UnsupportedOperationException("addresses are chosen here, so " + wanted.getUrl() + " is not listened on");
  }

  private static Server serve(List<BindableService> services, NettyServerBuilder builder) throws IOException {
    builder.maxInboundMessageSize(Integer.MAX_VALUE).permitKeepAliveTime(SHORTEST_KEEP_ALIVE_SECONDS, TimeUnit.SECONDS);
    for (BindableService service : services) {
      builder.addService(ServerInterceptors.intercept(service, GrpcContextHeaderAccessorProvider.interceptor()));
    }
    return builder.build().start();
  }

  /** Threads that do not keep the JVM: it ends with the job. */
  private static final class Threads {
    static final EventLoopGroup GROUP = new EpollEventLoopGroup(0, new DefaultThreadFactory("local sockets", true));
  }
}
